"""Export a run: write its network in a format that other programs read, with a model card beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ddim.errors import UserError, suggest
from ddim.exchange.diffusers_format import export_to_diffusers
from ddim.exchange.diffusers_weights import pack_weights
from ddim.exchange.export_notes import describe_differences
from ddim.exchange.model_card import CARD, make_card
from ddim.exchange.network_program import ONNX, OUTPUT, PROGRAM, write_onnx, write_program
from ddim.exchange.publishing import hide_folders
from ddim.exchange.sampling_json import SAMPLING, describe_sampling
from ddim.files import temporary_folder, write_atomic, write_json
from ddim.recipe.codec import write_recipe
from ddim.runs.folder import check_unused, parse_out, publish_output
from ddim.runs.names import find_run_folder
from ddim.sampling.pipeline import LoadedRun, load

FORMATS = {
    "diffusers": "a pipeline folder for diffusers",
    "onnx": "ONNX, for onnxruntime and others; needs the extra onnx",
    "torch": "a program of torch.export, for torch without ddim",
    "safetensors": "the weights alone, with their names in ddim",
}
"""A description of each export format, keyed by its name."""

WEIGHTS, MEASURED = "model.safetensors", "measured.json"

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

_TORCH = f"""
import torch

network = torch.export.load("{PROGRAM}").module()
F = network(x, condition)  # and label, int64 (B,), if {SAMPLING} has classes
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

_SAFETENSORS = f"""
import safetensors.torch

weights = safetensors.torch.load_file("{WEIGHTS}")
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

    The folder appears only when it is complete. With "onnx" or "torch", the network becomes a program that
    takes any number of images. Before the program is kept, its outputs for 1, 3 and 8 images are compared
    with those of the network. The file sampling.json says how to sample with the program.

    Args:
        run: a run folder, RUN/best, or a checkpoint folder.
        out: a new or empty folder; by default a new exports/RUN-FORMAT-N.
        to: the format, a name in `FORMATS`.
        weights: "ema", "raw" or another average, as for `ddim.load`.
        steps: number of sampling steps in sampling.json ("onnx" and "torch" only), by default the number in
            the recipe.
        own: the components of the run that you wrote, as for `ddim.load`.

    Returns:
        The folder, and sentences about what the format cannot hold and how samples differ.

    Raises:
        UserError: if the format is unknown or cannot hold the model, the outputs of the program differ from
            those of the network, a package is missing, the folder is not empty, or `steps` is given for a
            format without sampling.json.

    Example:
        >>> ddim.export("runs/photos-fast-1", to="onnx")
    """
    if to not in FORMATS:
        raise UserError(f"to must be one of {', '.join(FORMATS)}, got {to!r}{suggest(str(to), FORMATS)}")
    if steps is not None and to in ("diffusers", "safetensors"):
        raise UserError(
            f"the number of steps is saved in {SAMPLING}, which a {to} export does not have: leave steps out"
        )
    out = parse_out(out)
    if out is not None:
        check_unused(out)
    loaded = load(run, weights, own=own, device="cpu")
    name = find_run_folder(loaded.checkpoint.run).resolve().name
    parent = Path("exports")
    with temporary_folder((out or parent / name).resolve()) as folder:
        notes, about, code = _write_format(loaded, folder, to, steps, describe_differences(loaded, to, steps))
        card, images = make_card(loaded, about, [("python", code)])
        for file, png in images.items():
            write_atomic(folder / file, png)
        write_atomic(folder / CARD, card.encode())
        return Export(publish_output(folder, out, parent, f"{name}-{to}-"), to, notes)


def _write_format(
    run: LoadedRun, folder: Path, to: str, steps: int | None, notes: tuple[str, ...]
) -> tuple[tuple[str, ...], list[str], str]:
    """Write the files of a format.

    Returns sentences about what the format cannot hold, and sentences and a program for the model card.
    """
    if to == "diffusers":
        exported = export_to_diffusers(run, folder)
        code = (_LABELLED if run.model.classes else _DIFFUSERS).format(
            kind=exported.kind,
            steps=run.recipe.steps,
            arguments="".join(f", {name}={value}" for name, value in exported.arguments.items()),
            **vars(run.model.shape),
        )
        notes = (*exported.notes, *notes)
        about = ["This folder is a pipeline of diffusers.", *notes]
        return notes, about, code
    if to == "safetensors":
        write_atomic(folder / WEIGHTS, pack_weights(run.model.state_dict()))
        write_atomic(folder / "recipe.yaml", write_recipe(hide_folders(run.recipe)).encode())
        write_json(folder / MEASURED, _list_measured(run))
        about = (
            f"{WEIGHTS} holds the {run.checkpoint.weights} weights, recipe.yaml the recipe of the run, and "
            f"{MEASURED} the means and deviations that were measured on the training images."
        )
        return notes, [about], _SAFETENSORS
    document = describe_sampling(run, steps)
    conditions = [step["condition"] for step in document["steps"]]
    file, write, code = {
        "onnx": (ONNX, write_onnx, _NUMPY),
        "torch": (PROGRAM, write_program, _TORCH),
    }[to]
    write(run.model, conditions, folder / file)
    write_json(folder / SAMPLING, document)
    about = (
        f"{file} is the network, for any number of images. {SAMPLING} says how to sample with it. The inputs "
        f"of the network are x, noisy images times the entry input of {SAMPLING}, and condition, the entry "
        "of this name."
    )
    return notes, [about, *notes], code


def _list_measured(run: LoadedRun) -> dict[str, Any]:
    """Return what the recipe of a run does not say: the map of pixels and vectors to inputs, and the classes.

    An image in [0, 1] is mean + std * x, for each channel. An input vector is (vector - mean) / std.
    """
    vectors = None
    if known := run.vectors:
        mean, std = known.mean.tolist(), known.deviation.tolist()
        vectors = {"columns": known.columns, "mean": mean, "std": std}
    return {
        "pixels": {"mean": run.pixels.mean, "std": run.pixels.std},
        "values": asdict(run.values),
        "class_names": run.classes,
        "vectors": vectors,
    }
