"""Create the run of a model that was imported: a run with weights, but without training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Model
from ddim.diffusion.pixels import Pixels
from ddim.files import write_atomic, write_sealed
from ddim.machine.runtime import choose_runtime
from ddim.nn.ema import select_averaged
from ddim.recipe.codec import dump, write_recipe
from ddim.recipe.recipe import Recipe, build_model
from ddim.runs import checkpoint
from ddim.runs.folder import CHECKPOINTS, RUN, make_run_folder
from ddim.runs.state import Plan, RunState
from ddim.sampling.record import list_versions


def save_imported(  # noqa: PLR0913 (private to the importers)
    recipe: Recipe,
    channels: int,
    weights: Mapping[str, Tensor],
    source: Path,
    out: str | Path | None,
    classes: Sequence[str] = (),
) -> Path:
    """Create a run with the weights of a network, and return the run folder.

    The network runs in float32. import.json records the source and the versions of packages.

    Args:
        recipe: the recipe; its field `pixels` must be `Fixed(0.5, 0.5)`, so that images are in [-1, 1].
        channels: the number of image channels.
        weights: the state dict of the network.
        source: the file or folder that was imported.
        out: the run folder, by default one under runs/.
        classes: the names of the classes.
    """
    with torch.random.fork_rng(devices=[]):
        model: Model = build_model(recipe, channels)
    model.net.load_state_dict(weights)
    pixels = Pixels.fixed(0.5, 0.5, channels)
    runtime = choose_runtime(precision="fp32", compiling=False, size=recipe.data.size)
    run = make_run_folder(None if out is None else Path(out), str(source), recipe.name)
    kind = "folder" if source.is_dir() else "file"
    write_sealed(run / "import.json", {kind: str(source.resolve()), "versions": list_versions()})
    # With this file, lists, reports and the page find the run like a trained one.
    parameters = sum(weight.numel() for weight in model.parameters())
    write_sealed(run / RUN, {"recipe": dump(recipe), "imported": True, "parameters": parameters})
    write_atomic(run / "recipe.yaml", write_recipe(recipe).encode())
    state = RunState(0, pixels, channels, tuple(classes), runtime, plan=Plan(0))
    checkpoint.save(
        run / CHECKPOINTS,
        0,
        {"model": model.state_dict(), "ema/default": select_averaged(model)},
        {"state": state.to_json(), "recipe": dump(recipe)},
    )
    return run
