"""Export to and import from diffusers: DDPM's U-Net in the folder of a `DDIMPipeline` or `DDPMPipeline`.

diffusers itself is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim.errors import UserError
from ddim.exchange.diffusers_config import make_network_config, make_noise_config
from ddim.exchange.diffusers_options import head_config
from ddim.exchange.diffusers_reading import read_configs
from ddim.exchange.diffusers_weights import (
    WEIGHTS,
    convert_from_diffusers,
    convert_to_diffusers,
    pack_weights,
)
from ddim.exchange.imported_run import save_imported
from ddim.files import make_folder, read_json, write_atomic, write_json
from ddim.recipe.codec import override
from ddim.recipe.model import build_on_meta
from ddim.sampling.pipeline import Pipeline

CLASSES = "class_embedding.weight"
"""The name of the weights of the class embedding, here and in diffusers."""


@dataclass(frozen=True)
class DiffusersExport:
    """The result of an export.

    Attributes:
        kind: the class of the pipeline.
        notes: sentences about what diffusers cannot hold.
        arguments: arguments of the pipeline's call that the notes name.
    """

    kind: str
    notes: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)


def export_to_diffusers(pipeline: Pipeline, folder: str | Path) -> DiffusersExport:
    """Write a model as a folder from which a pipeline of diffusers samples the same images.

    The pipeline is a `DDPMPipeline` if the sampler is DDPM with variance "small" or "large", and otherwise a
    `DDIMPipeline`. If diffusers cannot hold the grid or the sampler of the model, the notes of the result say
    so. On a grid with trailing spacing, the images are the same only if the number of steps divides the
    number of entries of the schedule. Otherwise diffusers steps to noise levels outside its own grid.

    Args:
        pipeline: a model with DDPM's network.
        folder: a new or empty folder.

    Raises:
        UserError: if diffusers lacks the network, pixels, schedule, conditioning or parameterisation of the
            model, or the folder is not empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; give a new or empty folder")
    network, noise = make_network_config(pipeline), make_noise_config(pipeline.recipe)
    weights = convert_to_diffusers(_complete(pipeline))
    for part in ("unet", "scheduler"):
        make_folder(folder / part)
    write_atomic(folder / "unet" / WEIGHTS, pack_weights(weights))
    write_json(folder / "unet" / "config.json", network.content)
    write_json(folder / "scheduler" / "scheduler_config.json", noise.content)
    scheduler = noise.content["_class_name"]
    kind = scheduler.replace("Scheduler", "Pipeline")
    index = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", scheduler]}
    # This file is written last, because it makes the folder a pipeline.
    write_json(folder / "model_index.json", head_config(kind) | index)
    return DiffusersExport(kind, (*network.notes, *noise.notes), noise.arguments)


def _complete(pipeline: Pipeline) -> dict[str, Tensor]:
    """Return the weights of the network with an embedding row for "no class", if it was trained so, and
    without a predicted variance.
    """
    state, channels = dict(pipeline.model.net.state_dict()), pipeline.model.shape.channels
    for name in ("out_conv.weight", "out_conv.bias"):
        state[name] = state[name][:channels]
    if CLASSES in state and pipeline.recipe.data.unconditional:
        # Here, images without a class get a vector of zeros.
        state[CLASSES] = torch.cat([state[CLASSES], torch.zeros_like(state[CLASSES][:1])])
    return state


def import_from_diffusers(folder: str | Path, out: str | Path | None = None) -> Path:
    """Create a run from a `DDIMPipeline` or `DDPMPipeline` folder of diffusers; return the run folder.

    The run has the recipe `ddpm`, with the options from the pipeline's files, and no training images. Its
    sampler is DDIM or DDPM, like the scheduler of the pipeline, and the network runs in float32. import.json
    records the pipeline folder and the versions of packages.

    Samples differ from the samples of diffusers in two cases, both with trailing spacing. In the first case,
    the number of steps does not divide the number of entries (see `export_to_diffusers`). In the second case,
    DDPM with variance "fixed_large" takes fewer steps than there are entries. Then diffusers leaves noise in
    the samples.

    Args:
        folder: the pipeline folder.
        out: the run folder, by default one under runs/.

    Raises:
        UserError: if the pipeline is not a DDPM that this library can sample, or the run folder is not empty.
    """
    folder = Path(folder)
    network = _read(folder, "unet", "config.json")
    noise = _read(folder, "scheduler", "scheduler_config.json")
    recipe, channels = read_configs(network, noise)
    classes = 0
    stored = _read_tensors(_part(folder, "unet", WEIGHTS, "diffusion_pytorch_model.bin"))
    state = build_on_meta(recipe, channels, folder).state_dict()
    weights = convert_from_diffusers(stored, state)
    if (rows := weights.get(CLASSES)) is not None:
        # As `export_to_diffusers` writes it, the last row can mean no class.
        none = len(rows) > 1 and not rows[-1].any()
        classes = len(rows) - none
        weights[CLASSES] = rows[:classes]
        # Without such a row, the network was trained with a class for every image.
        recipe = override(recipe, {"net.classes": classes, **({} if none else {"data.unlabelled": 0.0})})
    return save_imported(recipe, channels, weights, folder, out, [str(k) for k in range(classes)])


def _part(folder: Path, part: str, *files: str) -> Path:
    """Return the path of a pipeline's file: in the folder `part`, or at the top in older pipelines.

    The first of `files` that exists is used.
    """
    for file in files:
        for path in (folder / part / file, folder / file):
            if path.is_file():
                return path
    raise UserError(f"{folder} holds no {part}/{files[0]}, which a pipeline of diffusers has")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, mapped into memory. No code in the file is run.

    Raises:
        UserError: if the file is damaged, or holds anything but tensors.
    """
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return {str(name): value.float() for name, value in stored.items()}
    # A damaged or hostile file can raise anything.
    except Exception as error:
        raise UserError(
            f"{path} cannot be read: it is damaged, or holds more than tensors ({type(error).__name__})"
        ) from error


def _read(folder: Path, part: str, file: str) -> dict[str, Any]:
    found = read_json(_part(folder, part, file))
    if not isinstance(found, dict):
        raise UserError(f"{part}/{file} of {folder} is not a JSON object")
    return found
