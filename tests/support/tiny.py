"""Runs of a second: recipes, images and trainings for the tests of whatever trains or was trained."""

import hashlib
import json
import sys
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ddim.data import Images, split_images
from ddim.diffusion.loss import Consistency
from ddim.machine.runtime import Runtime
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.nn.ema import Power
from ddim.nn.residual_unet import ResidualUNetSpec
from ddim.nn.unet import UNetSpec
from ddim.recipe.codec import override
from ddim.recipe.recipe import Data, Optim, Recipe, Report, build_model
from ddim.runs import names
from ddim.runs.state import Plan
from ddim.training import Callback, Machine, train as train_run
from ddim.training.run import measure_pixels
from ddim.training.student import Teacher
from ddim.training.trainer import Trainer
from oracles import made

COMMAND = [sys.executable, "-c", "import sys; from ddim.cli import main; sys.exit(main())"]
MACHINE = Machine("cpu", "fp32", compiling=False, threads=1)
NETS = {
    "layer norm": UNetSpec(widths=(8, 16), down=(0, 1), up=(1, 1), attention=(False, True), embedding=16),
    "batch norm": ResidualUNetSpec(widths=(8, 16), middle=(16,), depth=1, embedding=8),
    # With dropout.
    "group norm": DDPMUNetSpec(width=8, multipliers=(1, 2), blocks=1, attention=(False, True), groups=4),
    "keras": ResidualUNetSpec(widths=(8, 16), middle=(16,), depth=1, embedding=8, keras=True),
}
VARIANCE = DDPMUNetSpec(8, (1, 2), 1, (False, True), groups=4, dropout=0.0, outputs=2)
"""A network that learns the variance too."""
BASE = Recipe(
    name="tiny",
    data=Data(source="blossoms:40", size=(32, 32), validation=0.2),
    net=NETS["layer norm"],
    optim=Optim(lr=2e-3, batch=8, warmup=32, decay="cosine"),
    ema=Power(6.94),
    steps=2,
    report=Report(events=2, validation_images=8, grid=2, log=3, checkpoint=1000.0),
    images=80,
)
"""Ten updates over 32 images, so that an epoch is four; events after the fifth and the tenth."""


AUGMENTED = override(BASE, {"augment.probability": 0.5, "net.augment": 9, "data.flip": False})
"""BASE with augmented images, and a network that is conditioned on the augmentation."""


# Options for `recipe`: a rate so high that errors rise and fall, and a validation after each step.
DIVERGING = {"optim__lr": "0.3", "optim__decay": "constant", "optim__warmup": "0", "report__events": "10"}


def recipe(net="layer norm", **changes):
    """BASE with another network and fields by path, dots written as double underscores."""
    changed = override(BASE, {name.replace("__", "."): value for name, value in changes.items()})
    return replace(changed, net=NETS[net])


def images(n=40, size=(32, 32), channels=3):
    """Images of smooth noise in memory: no cache, no files."""
    coarse = np.random.default_rng(0).integers(0, 256, (n, 4, 4, channels), dtype=np.uint8)
    pixels = coarse.repeat(size[0] // 4, 1).repeat(size[1] // 4, 2)
    names = tuple(str(k) for k in range(n))
    return Images(pixels, None, (), names, hashlib.sha256(pixels.tobytes()).hexdigest())


def write_grays(folder, grays):
    """Write one image of each gray into a new folder."""
    folder.mkdir(parents=True)
    for k, gray in enumerate(grays):
        Image.fromarray(np.full((32, 32, 3), gray, np.uint8)).save(folder / f"{k}.png")


def training(chosen=BASE, source=None, updates=0, runtime=None):
    """A training after so many updates, on images in memory."""
    source = source or images()
    split = split_images(source, chosen.data.validation, chosen.seed)
    pixels = measure_pixels(chosen, split)
    run = Trainer(chosen, split, pixels, runtime or Runtime(), Plan(chosen.images))
    for _ in range(updates):
        run.advance()
    return run


def give_teacher(run):
    """Give a training with guidance a teacher and a guide with random weights; returns the training."""
    loss, models = run.recipe.objective, []
    if not isinstance(loss, Consistency) or loss.guidance == 1:
        return run
    for seed in (0, 1):
        model = made(lambda: build_model(run.recipe, run.model.shape.channels), seed)
        run.runtime.place(model.eval().requires_grad_(False))
        model.net = run.runtime.compiled(model.net, frozen=True)
        models.append(model)
    run.teacher = Teacher(models[0], models[1] if loss.guide else None, loss.guidance, loss.interval)
    return run


def train(recipe, folder, data=None, **options):
    """Train a run on this machine; returns its folder."""
    return train_run(data, recipe, **{"out": folder, "machine": MACHINE, **options})


def train_with_snapshots(recipe, folder, first):
    """Train a short run whose snapshots of averages begin at step `first`; returns its folder."""
    with patch("ddim.nn.power_averages.FIRST", first):
        return train(recipe, folder)


def train_until_crash(recipe, folder, *callbacks, **options):
    """Train a run until a callback cuts the power; returns its folder."""
    with pytest.raises(PowerCutError):
        train(recipe, folder, callbacks=callbacks, **options)
    return folder


def bits(run):
    """All tensors of a training, copied: model, average, optimiser."""
    return {
        f"{file}/{name}": tensor.detach().clone()
        for file, group in run.tensors().items()
        for name, tensor in group.items()
    }


def different(one, other):
    """Names of the tensors that are not the same bits."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def gradients(run):
    """Return the gradients and the loss of the next update, without making the update."""
    found = {}

    def judge(loss, norm):
        found.update({name: p.grad.clone() for name, p in run.parameters.items()})
        raise StopIteration(loss.detach().clone())

    unclipped = patch.object(nn.utils, "clip_grad_norm_", lambda *_: torch.zeros(()))
    with unclipped, patch.object(run, "judge", judge), pytest.raises(StopIteration) as stopped:
        run.advance()
    return found, stopped.value.value


def metrics(folder):
    """The lines of a run's log without their times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("time", "seal")} for line in lines]


class At(Callback):
    """Does something after the update of a step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_step(self, training, values):
        """See `Callback`."""
        if training.step == self.step:
            self.act(training)


def read_results(folder):
    """The log and the last step of a run, and hashes of its tensors, averages, guide and samples."""
    path = names.find_checkpoint(folder)
    files = [*path.rglob("*.safetensors")]
    rest = [*(folder / "samples").rglob("*"), *(folder / "averages").rglob("*")]
    files += [file for file in rest if file.is_file()]
    found = {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return {**found, "metrics.jsonl": metrics(folder), "step": path.name}


def differing_files(folder, whole):
    """Return the sorted names of what differs between the results of two runs."""
    one, other = read_results(folder), read_results(whole)
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def check_same_run(folder, whole):
    """Check that two runs end with the same bits and logged the same numbers."""
    assert differing_files(folder, whole) == []


class PowerCutError(Exception):
    """A power cut, as far as a process can tell."""


def crash(*_, **__):
    """Cut the power."""
    raise PowerCutError


class CrashAtSave(Callback):
    """Crashes right after the n-th checkpoint of this process."""

    def __init__(self, n):
        self.left = n

    def on_checkpoint(self, training, path):
        """See `Callback`."""
        self.left -= 1
        if not self.left:
            raise PowerCutError
