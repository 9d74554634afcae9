"""Export to and import from diffusers: DDPM's U-Net in a `DDIMPipeline` folder.

Weights are safetensors files, nothing is unpickled, and diffusers itself is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddim.diffusion.pixels import Pixels
from ddim.errors import UserError
from ddim.files import make_folder, read_json, write_atomic, write_json
from ddim.nn.ema import select_averaged
from ddim.nn.runtime import choose_runtime
from ddim.runs import checkpoint
from ddim.runs.codec import dump, write_recipe
from ddim.runs.diffusers_config import head_config, make_network_config, make_noise_config, read_configs
from ddim.runs.diffusers_weights import (
    WEIGHTS,
    convert_from_diffusers,
    convert_to_diffusers,
    pack_weights,
    unpack_weights,
)
from ddim.runs.folder import make_run_folder
from ddim.runs.pipeline import Pipeline
from ddim.runs.provenance import list_versions
from ddim.runs.recipe import build_model
from ddim.runs.state import RunState


@dataclass(frozen=True)
class DiffusersExport:
    """What was written: the class of the pipeline, and sentences about what diffusers cannot hold."""

    kind: str
    notes: tuple[str, ...] = ()


def export_to_diffusers(pipeline: Pipeline, folder: str | Path) -> DiffusersExport:
    """Write a model as a `DDIMPipeline` folder, from which diffusers samples the same images.

    On a grid with trailing spacing, the images are the same only if the number of steps divides the number
    of entries of the schedule. Otherwise diffusers steps to noise levels outside its own grid.

    Args:
        pipeline: a model with DDPM's network.
        folder: a new or empty folder.

    Raises:
        UserError: if diffusers lacks the network, pixels, schedule, conditioning, grid or sampler of the
            model, or the folder is not empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; give a new or empty folder")
    network = make_network_config(pipeline)
    noise = make_noise_config(pipeline.recipe)
    weights = convert_to_diffusers(pipeline.model.net.state_dict())
    for part in ("unet", "scheduler"):
        make_folder(folder / part)
    write_atomic(folder / "unet" / WEIGHTS, pack_weights(weights))
    write_json(folder / "unet" / "config.json", network)
    write_json(folder / "scheduler" / "scheduler_config.json", noise)
    index = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDIMScheduler"]}
    # This file is written last, because it makes the folder a pipeline.
    write_json(folder / "model_index.json", head_config("DDIMPipeline") | index)
    return DiffusersExport("DDIMPipeline")


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
        UserError: if the pipeline is not a DDPM that this library can sample.
    """
    folder = Path(folder)
    network = _read(folder, "unet", "config.json")
    noise = _read(folder, "scheduler", "scheduler_config.json")
    recipe, channels = read_configs(network, noise)
    with torch.random.fork_rng(devices=[]):
        model = build_model(recipe, channels)
    weights = unpack_weights(_part(folder, "unet", WEIGHTS))
    model.net.load_state_dict(convert_from_diffusers(weights, model.net.state_dict()))
    pixels, runtime = Pixels.fixed(0.5, 0.5, channels), choose_runtime(precision="fp32", compiling=False)
    run = make_run_folder(None if out is None else Path(out), str(folder), recipe.name)
    facts = {"folder": str(folder.resolve()), "versions": list_versions()}
    write_json(run / "import.json", facts)
    (run / "recipe.yaml").write_text(write_recipe(recipe), encoding="utf-8")
    state = RunState(0, pixels, channels, (), runtime)
    checkpoint.save(
        run / "checkpoints",
        0,
        {"model": model.state_dict(), "ema/default": select_averaged(model)},
        {"state": state.to_json(), "recipe": dump(recipe)},
    )
    return run


def _part(folder: Path, part: str, file: str) -> Path:
    """Return the path of a pipeline's file: in the folder `part`, or at the top in older pipelines."""
    for path in (folder / part / file, folder / file):
        if path.is_file():
            return path
    raise UserError(f"{folder} holds no {part}/{file}, which a diffusers pipeline with safetensors has")


def _read(folder: Path, part: str, file: str) -> dict[str, Any]:
    found = read_json(_part(folder, part, file))
    if not isinstance(found, dict):
        raise UserError(f"{part}/{file} of {folder} is not a JSON object")
    return found
