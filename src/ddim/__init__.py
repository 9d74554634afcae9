"""Train a diffusion model on your own images, sample it in few steps, and measure how good it is."""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddim import (
        data as data,
        diffusion as diffusion,
        errors as errors,
        evaluation as evaluation,
        exchange as exchange,
        experiments as experiments,
        machine as machine,
        metrics as metrics,
        nn as nn,
        plots as plots,
        recipe as recipe,
        runs as runs,
        sampling as sampling,
        training as training,
    )
    from ddim.data.cache_contents import inspect_cache as inspect_cache
    from ddim.diffusion import (
        editing as editing,
        grids as grids,
        oracles as oracles,
        samplers as samplers,
        schedules as schedules,
    )
    from ddim.diffusion.denoiser import Model as Model
    from ddim.diffusion.grids import Grid as Grid
    from ddim.diffusion.loss import Loss as Loss
    from ddim.diffusion.noise import Noise as Noise
    from ddim.diffusion.samplers import (
        DDIM as DDIM,
        DDPM as DDPM,
        EDM as EDM,
        AdamsBashforth as AdamsBashforth,
        DPMSolver as DPMSolver,
        Sampler as Sampler,
        State as State,
        UniPC as UniPC,
    )
    from ddim.diffusion.schedules import (
        Cosine as Cosine,
        KarrasSigma as KarrasSigma,
        Level as Level,
        Linear as Linear,
        Schedule as Schedule,
    )
    from ddim.diffusion.times import TimeSampling as TimeSampling
    from ddim.errors import UserError as UserError
    from ddim.evaluation.averages import ema as ema
    from ddim.evaluation.compare import compare as compare
    from ddim.evaluation.diagnose import diagnose as diagnose
    from ddim.evaluation.evaluate import evaluate as evaluate
    from ddim.evaluation.figures import (
        plot as plot,
        plot_forward as plot_forward,
        plot_losses as plot_losses,
        plot_reverse as plot_reverse,
        plot_samplers as plot_samplers,
        plot_schedules as plot_schedules,
    )
    from ddim.evaluation.image_summary import inspect_data as inspect_data
    from ddim.evaluation.likelihood import likelihood as likelihood
    from ddim.evaluation.measure import measure as measure
    from ddim.evaluation.memorisation import memorisation as memorisation
    from ddim.evaluation.search import search as search
    from ddim.exchange.diffusers import import_model as import_model
    from ddim.exchange.export import export as export
    from ddim.exchange.hub import push as push
    from ddim.experiments.index import list_runs as list_runs
    from ddim.experiments.plan import plan as plan
    from ddim.experiments.report import report as report
    from ddim.experiments.sweep import sweep as sweep
    from ddim.plots.pictures import sheet as sheet
    from ddim.recipe import parts as parts
    from ddim.recipe.named import find_recipe as find_recipe
    from ddim.recipe.recipe import Recipe as Recipe
    from ddim.sampling.edits import (
        inpaint as inpaint,
        interpolate as interpolate,
        invert as invert,
        vary as vary,
    )
    from ddim.sampling.generate import sample as sample
    from ddim.sampling.pipeline import Pipeline as Pipeline, load as load
    from ddim.training import (
        Callback as Callback,
        Machine as Machine,
        distill as distill,
        resume as resume,
        train as train,
    )

# The public names after their homes, by topic. They are imported at first use, because `ddim --help` must not
# wait for torch.
_HOMES = {
    # Train and sample
    "experiments.plan": "plan",
    "recipe.named": "find_recipe",
    "recipe.recipe": "Recipe",
    "training": "train resume distill Machine Callback",
    "experiments.sweep": "sweep",
    "sampling.pipeline": "load Pipeline",
    "sampling.generate": "sample",
    "diffusion.noise": "Noise",
    "plots.pictures": "sheet",
    "errors": "UserError",
    # Measure
    "evaluation.evaluate": "evaluate",
    "evaluation.compare": "compare",
    "evaluation.measure": "measure",
    "evaluation.diagnose": "diagnose",
    "evaluation.memorisation": "memorisation",
    "evaluation.likelihood": "likelihood",
    "evaluation.search": "search",
    "evaluation.averages": "ema",
    # Images and what is kept of them
    "evaluation.image_summary": "inspect_data",
    "data.cache_contents": "inspect_cache",
    # Several runs
    "experiments.index": "list_runs",
    "experiments.report": "report",
    # Exchange with other programs
    "exchange.export": "export",
    "exchange.hub": "push",
    "exchange.diffusers": "import_model",
    # Edit images
    "sampling.edits": "invert interpolate inpaint vary",
    # Figures
    "evaluation.figures": "plot plot_schedules plot_forward plot_reverse plot_samplers plot_losses",
    # Samplers
    "diffusion.samplers": "AdamsBashforth DDIM DDPM DPMSolver EDM UniPC Sampler State",
    "diffusion.grids": "Grid",
    # Models and losses
    "diffusion.denoiser": "Model",
    "diffusion.schedules": "Cosine KarrasSigma Linear Schedule Level",
    "diffusion.loss": "Loss",
    "diffusion.times": "TimeSampling",
}
_NAMES = {name: module for module, names in _HOMES.items() for name in names.split()}
_ROOMS = ("data", "diffusion", "errors", "evaluation", "exchange", "experiments", "machine", "metrics", "nn")
_MODULES = {room: f"ddim.{room}" for room in (*_ROOMS, "plots", "recipe", "runs", "sampling", "training")} | {
    name: f"ddim.diffusion.{name}" for name in ("editing", "grids", "oracles", "samplers", "schedules")
}
_MODULES["parts"] = "ddim.recipe.parts"

__all__ = list(_NAMES)


if not TYPE_CHECKING:  # to a type checker, a name that is not imported above is an error

    def __getattr__(name: str) -> Any:  # noqa: ANN401 (any name of the package)
        if name in _MODULES:
            return import_module(_MODULES[name])
        if name in _NAMES:
            return getattr(import_module(f"ddim.{_NAMES[name]}"), name)
        raise AttributeError(f"module 'ddim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES, "__version__"])
