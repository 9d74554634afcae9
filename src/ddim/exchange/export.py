"""Export a run: write its network in a format that other programs read, with a model card beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddim.diffusion.samplers import DDIM
from ddim.errors import UserError, suggest
from ddim.exchange.diffusers import export_to_diffusers
from ddim.exchange.model_card import CARD, make_card
from ddim.exchange.onnx import ONNX, OUTPUT, write_onnx
from ddim.exchange.sampling_json import SAMPLING, describe_sampling
from ddim.files import temporary_folder, write_atomic, write_json
from ddim.recipe.codec import describe_kind
from ddim.runs.folder import check_unused, parse_out, publish_output
from ddim.runs.names import find_run_folder
from ddim.sampling.labels import choose_label, default_label
from ddim.sampling.pipeline import LoadedRun, load
from ddim.sampling.sampling_setup import find_searched_grid, find_searched_guidance

FORMATS = {
    "diffusers": "a pipeline folder for diffusers",
    "onnx": "ONNX, for onnxruntime and others; needs the extra onnx",
}
"""A description of each export format, keyed by its name."""

_NUMPY = f"""
import json
from pathlib import Path

import numpy as np
import onnxruntime

guide = json.loads(Path("{SAMPLING}").read_text())
network = onnxruntime.InferenceSession("{ONNX}")
draw = np.random.default_rng(0)
x = guide["start"] * draw.standard_normal((4, *guide["shape"])).astype("float32")
labels = np.full(len(x), guide["no_class"])
if weights := guide["class_weights"]:
    labels = draw.choice(len(weights), len(x), p=np.divide(weights, sum(weights)))
for now, then in zip(guide["steps"], [*guide["steps"][1:], None]):
    given = {{"x": np.float32(now["input"]) * x, "condition": np.full(len(x), now["condition"], "float32")}}
    if guide["classes"]:
        given["label"] = labels
    F = network.run(["{OUTPUT}"], given)[0][:, : x.shape[1]]
    x0 = now["skip"] * x + now["output"] * F
    eps = (x - now["alpha"] * x0) / now["sigma"]
    if clip := guide["clip"]:
        x0 = x0.clip(*np.reshape([clip["low"], clip["high"]], (2, -1, 1, 1)))
        eps = eps if clip["keep_noise"] else (x - now["alpha"] * x0) / now["sigma"]
    x = (then["alpha"] * x0 + then["sigma"] * eps if then else x0).astype("float32")
mean, std = (np.reshape(guide["pixels"][name], (-1, 1, 1)) for name in ("mean", "std"))
images = (x * std + mean).clip(0, 1)  # (4, C, H, W)
"""

_DIFFUSERS = """
import diffusers

pipeline = diffusers.{kind}.from_pretrained(".")
images = pipeline(batch_size=4, num_inference_steps={steps}{arguments}).images
"""

_LABELLED = """
import diffusers
import torch

pipeline = diffusers.{kind}.from_pretrained(".")
x = torch.randn(4, {channels}, {height}, {width})
labels = torch.full((4,), 0)  # the class of each image
pipeline.scheduler.set_timesteps({steps})
for t in pipeline.scheduler.timesteps:
    with torch.no_grad():
        F = pipeline.unet(x, t, class_labels=labels).sample
    x = pipeline.scheduler.step(F, t, x{arguments}).prev_sample
images = (x / 2 + 0.5).clamp(0, 1)  # (4, C, H, W)
"""


@dataclass(frozen=True)
class Export:
    """The result of `export_run`.

    Attributes:
        folder: the folder that was written.
        format: a name in `FORMATS`.
        notes: sentences about what the format cannot hold, and how its samples differ from those of the run.
    """

    folder: Path
    format: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([f"{self.format}: {self.folder}", *self.notes])


def export_run(
    run: str | Path,
    out: str | Path | None = None,
    to: str = "diffusers",
    *,
    weights: str = "ema",
    steps: int | None = None,
    own: Sequence[Any] = (),
) -> Export:
    """Write a run as a folder for other programs, with a model card README.md.

    The folder appears only when it is complete. With "onnx", the network becomes a program that takes any
    number of images. Before the program is kept, its outputs for 1, 3 and 8 images are compared with those of
    the network. The file sampling.json says how to sample with the program.

    Args:
        run: a run folder, RUN/best, or a checkpoint folder.
        out: a new or empty folder; by default a new exports/RUN-FORMAT-N.
        to: the format, a name in `FORMATS`.
        weights: "ema", "raw" or another average, as for `ddim.load`.
        steps: number of sampling steps in sampling.json ("onnx" only), by default the number in the recipe.
        own: the components of the run that you wrote, as for `ddim.load`.

    Returns:
        The folder, and sentences about what the format cannot hold and how samples differ.

    Raises:
        UserError: if the format is unknown or cannot hold the model, the outputs of the program differ from
            those of the network, a package is missing, the folder is not empty, or `steps` is given for
            diffusers.

    Example:
        >>> ddim.export("runs/photos-fast-1", to="onnx")
    """
    if to not in FORMATS:
        raise UserError(f"to must be one of {', '.join(FORMATS)}, got {to!r}{suggest(str(to), FORMATS)}")
    if steps is not None and to == "diffusers":
        raise UserError(
            f"steps is saved in {SAMPLING}, which an export to diffusers has not: leave steps out"
        )
    out = parse_out(out)
    if out is not None:
        check_unused(out)
    loaded = load(run, weights, own=own, device="cpu")
    name = find_run_folder(loaded.checkpoint.run).resolve().name
    parent = Path("exports")
    with temporary_folder((out or parent / name).resolve()) as folder:
        notes, about, code = _write_format(loaded, folder, to, steps)
        card, images = make_card(loaded, about, [("python", code)])
        for file, png in images.items():
            write_atomic(folder / file, png)
        write_atomic(folder / CARD, card.encode())
        return Export(publish_output(folder, out, parent, f"{name}-{to}-"), to, tuple(notes))


def _write_format(
    run: LoadedRun, folder: Path, to: str, steps: int | None
) -> tuple[list[str], list[str], str]:
    """Write the files of a format.

    Returns sentences about what the format cannot hold, and sentences and a program for the model card.
    """
    notes = describe_differences(run, to, steps)
    if to == "diffusers":
        exported = export_to_diffusers(run, folder)
        code = (_LABELLED if run.model.classes else _DIFFUSERS).format(
            kind=exported.kind,
            steps=run.recipe.steps,
            arguments="".join(f", {name}={value}" for name, value in exported.arguments.items()),
            **vars(run.model.shape),
        )
        notes = [*exported.notes, *notes]
        return notes, ["This folder is a pipeline of diffusers.", *notes], code
    document = describe_sampling(run, steps)
    write_onnx(run.model, [step["condition"] for step in document["steps"]], folder / ONNX)
    write_json(folder / SAMPLING, document)
    about = (
        f"{ONNX} is the network, for any number of images. {SAMPLING} says how to sample with it. The inputs "
        f"of the network are x, noisy images times the entry input of {SAMPLING}, and condition, the entry "
        "of this name."
    )
    return notes, [about, *notes], _NUMPY


def describe_differences(run: LoadedRun, to: str, steps: int | None) -> list[str]:
    """Return sentences about how samples of an export differ from those of `ddim sample`.

    Args:
        run: the exported run.
        to: the format, a name in `FORMATS`.
        steps: number of sampling steps; by default the number in the recipe.
    """
    recipe, sampler = run.recipe, run.recipe.sampler
    steps, name, notes = recipe.choose_steps(steps), describe_kind(sampler), []
    if to == "onnx" and sampler != DDIM():
        notes.append(f"{SAMPLING} has the steps of DDIM, and not those of the sampler of the run, {name}")
    if (to == "diffusers" or sampler != DDIM()) and find_searched_grid(run, sampler, steps):
        notes.append(f"the times that ddim search found for {steps} steps of {name} are left out")
    label = default_label(recipe)
    # For class folders, guidance is searched for samples of all classes.
    if any(find_searched_guidance(run, each, steps) for each in (label, choose_label(recipe))):
        notes.append(f"the guidance that ddim search found for {steps} steps of {name} is left out")
    if to == "diffusers" and label == "natural":
        notes.append("ddim sample draws the classes of samples as often as they occur in training")
    if not (values := run.values).eight_bits:
        notes.append(
            f"samples are in [0, 1], which stands for {values.low:g} to {values.high:g} ({values.type}) in "
            "the images of the run"
        )
    return notes
