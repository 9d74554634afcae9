"""Train a diffusion model on your own images, sample it in few steps, and measure how good it is."""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddim import (  # noqa: F401
        data,
        diffusion,
        errors,
        evaluation,
        exchange,
        experiments,
        machine,
        metrics,
        nn,
        plots,
        recipe,
        runs,
        sampling,
        training,
    )
    from ddim.data.cache_contents import inspect_cache
    from ddim.diffusion import editing, grids, oracles, samplers, schedules  # noqa: F401
    from ddim.diffusion.denoiser import Model
    from ddim.diffusion.grids import Grid
    from ddim.diffusion.loss import Loss
    from ddim.diffusion.noise import Noise
    from ddim.diffusion.samplers import DDIM, DDPM, EDM, AdamsBashforth, DPMSolver, Sampler, State, UniPC
    from ddim.diffusion.schedules import Cosine, KarrasSigma, Level, Linear, Schedule
    from ddim.diffusion.times import TimeSampling
    from ddim.errors import UserError
    from ddim.evaluation.averages import ema
    from ddim.evaluation.compare import compare
    from ddim.evaluation.diagnose import diagnose
    from ddim.evaluation.evaluate import evaluate
    from ddim.evaluation.figures import (
        plot,
        plot_forward,
        plot_losses,
        plot_reverse,
        plot_samplers,
        plot_schedules,
    )
    from ddim.evaluation.image_summary import inspect_data
    from ddim.evaluation.likelihood import likelihood
    from ddim.evaluation.measure import measure
    from ddim.evaluation.memorisation import memorisation
    from ddim.evaluation.search import search
    from ddim.exchange.diffusers import import_model
    from ddim.exchange.export import export
    from ddim.exchange.hub import push
    from ddim.experiments.index import list_runs
    from ddim.experiments.plan import plan
    from ddim.experiments.report import report
    from ddim.experiments.sweep import sweep
    from ddim.plots.pictures import sheet
    from ddim.recipe import parts  # noqa: F401
    from ddim.recipe.named import find_recipe
    from ddim.recipe.recipe import Recipe
    from ddim.sampling.edits import inpaint, interpolate, invert, vary
    from ddim.sampling.generate import sample
    from ddim.sampling.pipeline import Pipeline, load
    from ddim.training import Callback, Machine, distill, resume, train

# Names and their homes, in the order of use. They are imported at first use, because `ddim --help` must not
# wait for torch.
_HOMES = {
    "training": "train resume distill Callback Machine",
    "experiments.plan": "plan",
    "experiments.report": "report",
    "experiments.index": "list_runs",
    "experiments.sweep": "sweep",
    "exchange.export": "export",
    "exchange.hub": "push",
    "exchange.diffusers": "import_model",
    "sampling.pipeline": "load Pipeline",
    "sampling.generate": "sample",
    "plots.pictures": "sheet",
    "recipe.recipe": "Recipe",
    "recipe.named": "find_recipe",
    "diffusion.denoiser": "Model",
    "evaluation.evaluate": "evaluate",
    "evaluation.compare": "compare",
    "evaluation.measure": "measure",
    "evaluation.diagnose": "diagnose",
    "evaluation.memorisation": "memorisation",
    "evaluation.likelihood": "likelihood",
    "evaluation.search": "search",
    "evaluation.averages": "ema",
    "evaluation.image_summary": "inspect_data",
    "data.cache_contents": "inspect_cache",
    "sampling.edits": "invert interpolate inpaint vary",
    "evaluation.figures": "plot plot_forward plot_reverse plot_samplers plot_losses plot_schedules",
    "errors": "UserError",
    "diffusion.noise": "Noise",
    "diffusion.samplers": "AdamsBashforth DDIM DDPM DPMSolver EDM UniPC Sampler State",
    "diffusion.schedules": "Cosine KarrasSigma Level Linear Schedule",
    "diffusion.loss": "Loss",
    "diffusion.times": "TimeSampling",
    "diffusion.grids": "Grid",
}
_NAMES = {name: module for module, names in _HOMES.items() for name in names.split()}
_ROOMS = ("data", "diffusion", "errors", "evaluation", "exchange", "experiments", "machine", "metrics", "nn")
_MODULES = {room: f"ddim.{room}" for room in (*_ROOMS, "plots", "recipe", "runs", "sampling", "training")} | {
    name: f"ddim.diffusion.{name}" for name in ("editing", "grids", "oracles", "samplers", "schedules")
}
_MODULES["parts"] = "ddim.recipe.parts"

__all__ = [  # noqa: RUF022 (in the order of use)
    "plan",
    "find_recipe",
    "train",
    "resume",
    "distill",
    "sweep",
    "load",
    "sample",
    "sheet",
    # Measure
    "evaluate",
    "compare",
    "measure",
    "diagnose",
    "memorisation",
    "likelihood",
    "search",
    "ema",
    # Images and what is kept of them
    "inspect_data",
    "inspect_cache",
    # Several runs
    "list_runs",
    "report",
    # Exchange with other programs
    "export",
    "push",
    "import_model",
    # Edit images
    "invert",
    "interpolate",
    "inpaint",
    "vary",
    # Figures
    "plot",
    "plot_schedules",
    "plot_forward",
    "plot_reverse",
    "plot_samplers",
    "plot_losses",
    # Values
    "Machine",
    "Model",
    "Noise",
    "Pipeline",
    "Recipe",
    "UserError",
    # Samplers
    "AdamsBashforth",
    "DDIM",
    "DDPM",
    "DPMSolver",
    "EDM",
    "UniPC",
    # Schedules
    "Cosine",
    "KarrasSigma",
    "Linear",
    # Components of your own
    "Callback",
    "Grid",
    "Level",
    "Loss",
    "Sampler",
    "Schedule",
    "State",
    "TimeSampling",
]


if not TYPE_CHECKING:  # to a type checker, a name that is not imported above is an error

    def __getattr__(name: str) -> Any:  # noqa: ANN401 (any name of the package)
        if name in _MODULES:
            return import_module(_MODULES[name])
        if name in _NAMES:
            return getattr(import_module(f"ddim.{_NAMES[name]}"), name)
        raise AttributeError(f"module 'ddim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES, "__version__"])
