"""Create a run from a model of another library: a run with weights, but without training images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddim.diffusion.pixels import Pixels
from ddim.errors import quote
from ddim.exchange.diffusers import CLASSES, read_diffusers
from ddim.files import write_atomic, write_sealed
from ddim.machine.runtime import choose_runtime
from ddim.nn.ema import select_averaged
from ddim.recipe.codec import dump, override, write_recipe
from ddim.recipe.recipe import build_model
from ddim.runs import checkpoint
from ddim.runs.folder import CHECKPOINTS, RUN, make_run_folder
from ddim.runs.state import Plan, RunState
from ddim.sampling.record import list_versions


@dataclass(frozen=True)
class Imported:
    """The result of `import_model`: the folder of the new run."""

    folder: Path

    def __str__(self) -> str:
        return f"The model is the run {self.folder} now.\nnext: ddim sample {quote(self.folder)}"

    def to_json(self) -> dict[str, Any]:
        """Return the folder."""
        return vars(self)


def import_model(model: str | Path, out: str | Path | None = None) -> Imported:
    """Convert a model of diffusers to a run.

    The model is a folder of a DDIMPipeline or DDPMPipeline with the U-Net of DDPM. The run can be sampled,
    evaluated, exported and trained further; it has no training images. Its sampler is DDIM or DDPM, like the
    scheduler of the pipeline. import.json in the run names the pipeline folder and the versions of packages.

    Samples are those of the pipeline. They differ if a grid has trailing spacing and its number of steps does
    not divide the number of timesteps, and for the variance "fixed_large" with fewer steps than timesteps.

    Args:
        model: the pipeline folder.
        out: the run folder; by default a new one, runs/MODEL-ddpm-N.

    Raises:
        UserError: if diffusers is not installed, the model is not such a pipeline, its weights are damaged or
            unsafe, or the run folder is not empty.

    Example:
        >>> ddim.import_model("ddpm-cifar10-32").folder

    Commands:
        ddim import ddpm-cifar10-32
    """
    source = Path(model)
    recipe, channels, weights = read_diffusers(source)
    if (rows := weights.get(CLASSES)) is not None:
        # As `export_to_diffusers` writes it, the last row can mean no class.
        none = len(rows) > 1 and not rows[-1].any()
        weights[CLASSES] = rows[: len(rows) - none]
        # Without such a row, the network was trained with a class for every image.
        classes = {"net.classes": len(rows) - none}
        recipe = override(recipe, classes if none else classes | {"data.unlabelled": 0.0})
    with torch.random.fork_rng(devices=[]):
        network = build_model(recipe, channels)
    network.net.load_state_dict(weights)
    runtime = choose_runtime(precision="fp32", compiling=False, size=recipe.data.size)
    run = make_run_folder(None if out is None else Path(out), str(source), recipe.name)
    write_sealed(run / "import.json", {"folder": str(source.resolve()), "versions": list_versions()})
    # With this file, lists, reports and the page find the run like a trained one.
    count = sum(weight.numel() for weight in network.parameters())
    write_sealed(run / RUN, {"recipe": dump(recipe), "imported": True, "parameters": count})
    write_atomic(run / "recipe.yaml", write_recipe(recipe).encode())
    names = tuple(map(str, range(recipe.net.classes)))
    state = RunState(0, Pixels.fixed(0.5, 0.5, channels), channels, names, runtime, plan=Plan(0))
    tensors = {"model": network.state_dict(), "ema/default": select_averaged(network)}
    checkpoint.save(run / CHECKPOINTS, 0, tensors, {"state": state.to_json(), "recipe": dump(recipe)})
    return Imported(run)
