"""Train a diffusion model on your own images, sample it in a handful of steps, and know how good it is."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddim.evaluation import Pictures, evaluate
    from ddim.generate import load, sample
    from ddim.grids import Uniform
    from ddim.noise import Noise
    from ddim.reference import Reference
    from ddim.samplers import DDIM, last, picture, start
    from ddim.training import train

# Name -> module. Lazily, because `ddim --help` must not wait for torch.
_PUBLIC = {
    "train": "ddim.training",
    "load": "ddim.generate",
    "sample": "ddim.generate",
    "evaluate": "ddim.evaluation",
    "Pictures": "ddim.evaluation",
    "Reference": "ddim.reference",
    "Noise": "ddim.noise",
    "Uniform": "ddim.grids",
    "DDIM": "ddim.samplers",
    "start": "ddim.samplers",
    "last": "ddim.samplers",
    "picture": "ddim.samplers",
}

__all__ = [
    "DDIM",
    "Noise",
    "Pictures",
    "Reference",
    "Uniform",
    "evaluate",
    "last",
    "load",
    "picture",
    "sample",
    "start",
    "train",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ddim' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)
