"""Train a diffusion model on your own images, sample it in few steps, and measure how good it is."""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddim.diffusion.denoiser import Model
    from ddim.diffusion.grids import Grid, Karras, Listed, Quadratic, Sections, Spaced, Uniform, UniformLogSNR
    from ddim.diffusion.loss import Loss
    from ddim.diffusion.noise import Noise
    from ddim.diffusion.samplers import (
        DDIM,
        DDPM,
        EDM,
        AdamsBashforth,
        DPMSolver,
        Sampler,
        State,
        UniPC,
        final_sample,
        initial_noise,
        last_state,
    )
    from ddim.diffusion.schedules import (
        BetaTable,
        Cosine,
        KarrasSigma,
        Level,
        Linear,
        LinearBeta,
        LinearIn,
        Schedule,
    )
    from ddim.diffusion.time_sampling import TimeSampling
    from ddim.evaluation.evaluate import evaluate
    from ddim.evaluation.reference import Reference
    from ddim.evaluation.subject import Samples
    from ddim.evaluation.tabulate import tabulate
    from ddim.runs.generate import sample
    from ddim.runs.pipeline import Pipeline, load
    from ddim.runs.recipe import Recipe
    from ddim.training import Callback, Machine, resume, train

__all__ = [  # noqa: RUF022 (in the order of use)
    "train",
    "resume",
    "load",
    "sample",
    "evaluate",
    "tabulate",
    "Callback",
    "Machine",
    "Model",
    "Samples",
    "Pipeline",
    "Recipe",
    "Reference",
    "Noise",
    "final_sample",
    "initial_noise",
    "last_state",
    # Samplers
    "AdamsBashforth",
    "DDIM",
    "DDPM",
    "DPMSolver",
    "EDM",
    "UniPC",
    # Schedules
    "BetaTable",
    "Cosine",
    "KarrasSigma",
    "Linear",
    "LinearBeta",
    "LinearIn",
    # Grids of times
    "Karras",
    "Listed",
    "Quadratic",
    "Sections",
    "Spaced",
    "Uniform",
    "UniformLogSNR",
    # Parts of your own
    "Callback",
    "Grid",
    "Level",
    "Loss",
    "Sampler",
    "Schedule",
    "State",
    "TimeSampling",
]

# Module -> its names above. They are imported at first use, because `ddim --help` must not wait for torch.
_HOMES = {
    "training": ("train", "resume", "Callback", "Machine"),
    "runs.pipeline": ("load", "Pipeline"),
    "runs.generate": ("sample",),
    "runs.recipe": ("Recipe",),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.tabulate": ("tabulate",),
    "evaluation.subject": ("Samples",),
    "evaluation.reference": ("Reference",),
    "diffusion.denoiser": ("Model",),
    "diffusion.loss": ("Loss",),
    "diffusion.noise": ("Noise",),
    "diffusion.time_sampling": ("TimeSampling",),
    "diffusion.samplers": (
        *("AdamsBashforth", "DDIM", "DDPM", "DPMSolver", "EDM", "Sampler", "State", "UniPC"),
        *("final_sample", "initial_noise", "last_state"),
    ),
    "diffusion.schedules": (
        *("BetaTable", "Cosine", "KarrasSigma", "Level", "Linear", "LinearBeta", "LinearIn", "Schedule"),
    ),
    "diffusion.grids": (
        "Grid",
        "Karras",
        "Listed",
        "Quadratic",
        "Sections",
        "Spaced",
        "Uniform",
        "UniformLogSNR",
    ),
}
_ROOMS = ("data", "diffusion", "evaluation", "experiments", "metrics", "nn", "plots", "runs", "training")
_MODULES = {room: f"ddim.{room}" for room in _ROOMS} | {
    name: f"ddim.diffusion.{name}" for name in ("editing", "grids", "oracles", "samplers", "schedules")
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 (any name of the package)
    if name in _MODULES:
        return import_module(_MODULES[name])
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"ddim.{module}"), name)
    raise AttributeError(f"module 'ddim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES, "__version__"])
