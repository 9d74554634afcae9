"""Train a diffusion model on your own images, sample it in a handful of steps, and know how good it is."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddim.diffusion.grids import Uniform
    from ddim.diffusion.noise import Noise
    from ddim.diffusion.samplers import DDIM, final_sample, initial_noise, last_state
    from ddim.evaluation.evaluate import Pictures, evaluate
    from ddim.evaluation.reference import Reference
    from ddim.runs.generate import sample
    from ddim.runs.pipeline import load
    from ddim.training import train

# Name -> module. Lazily, because `ddim --help` must not wait for torch.
_PUBLIC = {
    "train": "ddim.training",
    "load": "ddim.runs.pipeline",
    "sample": "ddim.runs.generate",
    "evaluate": "ddim.evaluation.evaluate",
    "Pictures": "ddim.evaluation.evaluate",
    "Reference": "ddim.evaluation.reference",
    "Noise": "ddim.diffusion.noise",
    "Uniform": "ddim.diffusion.grids",
    "DDIM": "ddim.diffusion.samplers",
    "initial_noise": "ddim.diffusion.samplers",
    "last_state": "ddim.diffusion.samplers",
    "final_sample": "ddim.diffusion.samplers",
}

__all__ = [
    "DDIM",
    "Noise",
    "Pictures",
    "Reference",
    "Uniform",
    "evaluate",
    "last_state",
    "load",
    "final_sample",
    "sample",
    "initial_noise",
    "train",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ddim' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)
