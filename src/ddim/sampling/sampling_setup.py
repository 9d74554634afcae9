"""How a model is sampled: the options of a user become one value, with the guidance of the samples.

Classifier-free guidance (Ho & Salimans 2022) compares the model with a class label and the model without one.
Autoguidance (Karras et al. 2024) compares the model with a guide, a smaller or less trained model, and needs
no labels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar

import numpy as np
import torch
from torch import Tensor

from ddim.diffusion.denoiser import Counted, Denoiser, Labelled
from ddim.diffusion.grids import Grid, Listed, Uniform, UniformLogSNR
from ddim.diffusion.guidance import Guided, Interval, Rescheduled, check_reach, find_ends, lies_inside
from ddim.diffusion.noise import Noise
from ddim.diffusion.parameterisation import Prediction, from_image
from ddim.diffusion.samplers import Sampler, last_state
from ddim.diffusion.schedules import Schedule
from ddim.errors import UserError, check_count
from ddim.recipe.checks import check_diffusion_model, check_recipe, check_steps, check_unconditional
from ddim.recipe.codec import override_sampling
from ddim.runs.names import find_run_folder, parse_place, pin_place
from ddim.sampling.labels import GivenVectors, Label, default_label
from ddim.sampling.pipeline import LoadedRun, Pipeline, Source, load, open_pipeline
from ddim.sampling.searched import find_saved_grid, find_searched, name_search, save_searched

P = TypeVar("P", bound=Pipeline)


class SamplingOptions(TypedDict, total=False):
    """The options of samples that depend on the run.

    Attributes:
        sampler: ddim, ddpm, dpm_solver, ... (default: the recipe's).
        grid: the sampling times: uniform, karras, ..., or a list of times (default: the recipe's).
        label: class name, class index or "all" for a run with labels; for clusters also "natural" (the
            default) and "none".
        vector: numbers such as 0.2,1.5, or a CSV file with a row for each image, for a run with vectors.
        guidance: guidance scale (default: 1, off).
        guidance_interval: guide only at these log-SNRs, such as -2,5; an end may be left out.
        guide_with: a weaker model that guides: @guide (early weights of the run), or runs/small-1@raw
            (default: the run without its label).
        searched: use what `ddim search` saved (default: no in Python).
        fields: sampling fields of the recipe, such as --sampler.eta 0, --grid.end 5, --sampled_on linear or
            --clip yes.
    """

    sampler: Sampler | str | None
    grid: Grid | str | Sequence[float] | None
    label: str | int | None
    vector: GivenVectors | None
    guidance: float | None
    guidance_interval: Interval | None
    guide_with: str | Path | LoadedRun | None
    searched: bool | None
    fields: Mapping[str, Any] | None


GUIDING = ("guidance", "guidance_interval", "guide_with")
"""The names of the options of guidance; see `collect_guidance`."""


@dataclass(frozen=True)
class Guidance:
    """How samples are guided.

    Attributes:
        scale: guidance scale; 1 turns guidance off.
        interval: (lowest, highest) log-SNR with guidance, in which None is an open end. None in place of the
            pair means that guidance is used at all noise levels.
        guide: the name of a weaker model, such as "@guide" or "runs/small-1@raw"; see `open_guide`. None for
            classifier-free guidance, by the same model without a label.
        run: the loaded guide; None before `open_guidance` has loaded it.
        searched: whether `ddim search` found these values.

    Raises:
        UserError: if the scale or the interval is not possible.
    """

    scale: float = 1.0
    interval: Interval | None = None
    guide: str | None = None
    run: LoadedRun | None = field(default=None, compare=False, repr=False)
    searched: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.scale < math.inf:
            raise UserError(f"guidance must be a number of at least 0, got {self.scale}")
        # Equal values must be equal as text too, in records and names.
        object.__setattr__(self, "scale", float(self.scale))
        low, high = find_ends(self.interval)
        if not low < high:
            raise UserError(f"guidance_interval must have its lower end first, got {self.interval}")
        ends = tuple(None if math.isinf(end) else end for end in (low, high))
        object.__setattr__(self, "interval", None if ends == (None, None) else ends)

    @property
    def on(self) -> bool:
        """Whether the scale differs from 1, so that steps inside the interval are guided."""
        return self.scale != 1

    def to_json(self) -> dict[str, Any]:
        """Return scale, interval and the name of the guide, as JSON."""
        return {"scale": self.scale, "interval": self.interval and list(self.interval), "guide": self.guide}

    def describe(self) -> dict[str, Any]:
        """Return the entries of a record about guidance, as JSON; only the scale if guidance is off.

        The entry "guide" has its name, and the path, SHA-256, step and weights of its checkpoint.
        """
        described: dict[str, Any] = {"guidance": self.scale}
        if self.on and self.interval:
            described["guidance_interval"] = list(self.interval)
        if self.on and self.run:
            described["guide"] = {"name": self.guide, **self.run.checkpoint.describe()}
        return described

    def combine(self, strong: Counted, weak: Counted) -> tuple[Denoiser, list[Counted]]:
        """Return a denoiser in which `weak` guides `strong`, and the counters of its evaluations."""
        if not self.on:
            return strong, [strong]
        other = weak if weak.schedule == strong.schedule else Rescheduled(weak, strong.schedule)
        return Guided(strong, other, self.scale, self.interval), [strong, weak]


OFF = Guidance()
"""No guidance."""


@dataclass(frozen=True)
class SamplingSetup(Generic[P]):
    """A model and how it is sampled; `choose_sampling` checks that these fit together.

    Attributes:
        pipeline: the model, with its sampler and grid.
        steps: number of sampling steps, which is the number of timesteps in the grid.
        label: the label of the samples.
        guidance: the guidance, see `open_guidance`; inside its interval each step needs twice the NFE.
        searched: whether `ddim search` found the grid.
        consistent: see `Pipeline.denoiser`.
    """

    pipeline: P
    steps: int
    label: Label = None
    guidance: Guidance = OFF
    searched: bool = False
    consistent: bool = False

    @property
    def times(self) -> Tensor:
        """The decreasing times (N,) of the grid."""
        return self.pipeline.recipe.times(self.steps)

    def condition(self, labels: Tensor | None) -> tuple[Denoiser, list[Counted]]:
        """Return the guided denoiser for a batch with these labels, and the counters of its evaluations.

        `labels` are classes (B,) or vectors (B, d) on the device of the model, or None for no label.
        """
        model, guide = self.pipeline.model, self.guidance.run
        weak = Labelled(guide.model, labels if guide.recipe.data.conditional else None) if guide else model
        guided, counters = self.guidance.combine(Counted(Labelled(model, labels)), Counted(weak))
        return self.pipeline.denoiser(guided, consistent=self.consistent), counters

    def count_evaluations(self) -> int:
        """Return the number of network evaluations that each sample needs (NFE).

        A step inside the interval of guidance needs twice as many evaluations as a step outside. To count
        them, the sampler runs on one image, with denoisers that predict 0.
        """
        recipe = self.pipeline.recipe
        guided, counters = self.guidance.combine(*(Counted(_Zero(recipe.schedule)) for _ in range(2)))
        blank = torch.zeros(self.pipeline.model.blank(1).shape, device="cpu")
        last_state(recipe.sampler(self.pipeline.denoiser(guided), blank, self.times, Noise([0])))
        return sum(counter.evaluations for counter in counters)


@dataclass(frozen=True)
class _Zero:
    """A denoiser whose predicted clean image is always 0."""

    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Prediction:
        """Return the prediction; see `Denoiser`."""
        zero = torch.zeros_like(x_t)
        return replace(from_image(x_t, zero, self.schedule(t).over(x_t)), variance_mix=zero + 0.5)


def choose_sampling(
    pipeline: P,
    steps: int | None,
    label: Label,
    fields: Mapping[str, Any] | None = None,
    *,
    guidance: Guidance | None = None,
    searched: bool = False,
) -> SamplingSetup[P]:
    """Return how a model is sampled with the options that a user gives; the guide is loaded.

    Args:
        pipeline: the model.
        steps: number of sampling steps; None for the length of a list of times, else for the recipe's.
        label: the label of the samples, see `Pipeline.find_label`.
        fields: new values of sampling fields keyed by path, see `override_sampling`. A sampler and a grid may
            be objects, and a grid may be its times.
        guidance: see `collect_guidance`; None for no guidance.
        searched: use the grid that `ddim search` saved for the sampler and the number of steps, unless the
            options change the grid or the schedule, and the guidance that it saved, unless one is given.

    Raises:
        UserError: if the options cannot be used together or with this model.
    """
    # A name and the fields of its part, such as "listed" and grid.times, are read together.
    changes, parts = {**(fields or {})}, {}
    for name in ("sampler", "grid"):
        if not isinstance(changes.get(name, ""), str):
            parts[name] = changes.pop(name)
    if isinstance(parts.get("grid"), np.ndarray | Tensor):
        parts["grid"] = parts["grid"].tolist()
    pipeline = pipeline.with_recipe(**parts)
    # Even without changes, values become those of a file: eta 1 becomes 1.0, in records and cache keys.
    pipeline = replace(pipeline, recipe=override_sampling(pipeline.recipe, changes))
    listed = pipeline.recipe.grid
    steps = len(listed.times) if steps is None and isinstance(listed, Listed) else steps
    steps = pipeline.recipe.choose_steps(steps)
    chosen = {"grid", "sampled_on"} & {name.split(".")[0] for name in [*parts, *changes]}
    use_saved = searched and not chosen
    saved = find_searched_grid(pipeline, pipeline.recipe.sampler, steps) if use_saved else None
    pipeline = pipeline.with_recipe(grid=saved) if saved else pipeline
    if isinstance(pipeline, LoadedRun):  # the recipe of a bare model does not describe its network
        check_recipe(pipeline.recipe)
    check_steps(pipeline.recipe, steps)
    if searched and guidance is None:
        guidance = find_searched_guidance(pipeline, label, steps)
    guided = open_guidance(pipeline, label, steps, guidance or OFF)
    return SamplingSetup(pipeline, steps, label, guided, searched=saved is not None)


def open_samples(
    pipeline: P, steps: int | None, seeds: Sequence[int], options: Mapping[str, Any]
) -> SamplingSetup[P]:
    """Return how the samples of these seeds are made; see `SamplingOptions` and `choose_sampling`."""
    label = pipeline.find_label(options.get("label"), options.get("vector"), seeds)
    guidance = collect_guidance(*(options.get(name) for name in GUIDING))
    parts = {name: options[name] for name in ("sampler", "grid") if options.get(name) is not None}
    fields = parts | {**(options.get("fields") or {})}
    searched = options.get("searched", False)
    return choose_sampling(pipeline, steps, label, fields, guidance=guidance, searched=searched)


def open_edit(
    run: Source, what: str, steps: int, options: Mapping[str, Any], invert: bool = False, seeded: bool = False
) -> SamplingSetup:
    """Return how an edit samples.

    The default grid of an edit of samples is that of the recipe. For real images it has equal steps of
    log-SNR and ends at log-SNR 6 (sigma 0.05), or has uniform times if the schedule does not reach 6.

    Args:
        run: a run folder, a pipeline or a model.
        what: the name of the edit in messages, such as "an inversion".
        steps: number of timesteps in the grid.
        options: see `ddim.sampling.edits.EditOptions`.
        invert: whether the edit needs latents of real images. Guidance makes these latents inaccurate.
        seeded: whether a real image is edited, and each result has its own seed. Such results have the
            default label of samples. Other edits use no class, because all their images need the same model.
    """
    # A latent needs a step from the image to noise.
    check_count("steps", steps, 2 if invert else 1)
    guidance = collect_guidance(*(options.get(name) for name in GUIDING)) or OFF
    if invert and guidance.on:
        raise UserError(f"{what} cannot be guided, because guidance multiplies the errors of latents")
    pipeline = open_pipeline(run)
    recipe, fields = pipeline.recipe, options.get("fields") or {}
    check_diffusion_model(recipe, f"{what} needs")
    label, grid, real = default_label(recipe) if seeded else None, recipe.grid, invert or seeded
    if label is None:
        check_unconditional(recipe, what)
    if others := [name for name in fields if name.split(".")[0] != "grid"]:
        raise UserError(f"{others[0]} cannot be changed for an edit; only grid can")
    if real:
        # The grid of a recipe may end at a time with much noise, but real images have none. Inversion is most
        # accurate with equal steps of log-SNR.
        cleanest = recipe.sampling_schedule(0.0).log_snr
        grid = UniformLogSNR() if cleanest > UniformLogSNR.end else Uniform()
    setup = choose_sampling(pipeline, steps, label, {"grid": grid, **fields}, guidance=guidance)
    return replace(setup, consistent=real)


def collect_guidance(
    guidance: float | None = None,
    guidance_interval: Interval | None = None,
    guide_with: str | Path | LoadedRun | None = None,
) -> Guidance | None:
    """Return the guidance that the three options of a function describe; None if none of them is given.

    Args:
        guidance: guidance scale.
        guidance_interval: (low, high), the log-SNRs with guidance; None for all. An end can be None.
        guide_with: the guide: a loaded run or a name, see `open_guide`.

    Raises:
        UserError: if the scale is missing, or a value is not possible.
    """
    if guidance is None:
        if guidance_interval is None and guide_with is None:
            return None
        raise UserError("guidance_interval and guide_with need a guidance scale (--guidance 2)")
    if isinstance(guide_with, LoadedRun):
        return Guidance(guidance, guidance_interval, str(guide_with.checkpoint.run), guide_with)
    return Guidance(guidance, guidance_interval, None if guide_with is None else str(guide_with))


def open_guidance(pipeline: Pipeline, label: Label, steps: int, chosen: Guidance) -> Guidance:
    """Return the guidance of samples; its guide is loaded, and fits the model.

    Args:
        pipeline: the model to sample, with its sampler and grid.
        label: the label of the samples.
        steps: number of sampling steps.
        chosen: the guidance.

    Raises:
        UserError: if the guide cannot be loaded or does not fit, or classifier-free guidance is impossible.
    """
    if not chosen.on:
        return OFF
    data = pipeline.recipe.data
    if chosen.guide is not None:
        run = chosen.run or open_guide(pipeline, chosen.guide)
        chosen = replace(chosen, run=run)
        _check_guide(pipeline, label, steps, chosen, run)
    elif label is None or not data.conditional or not data.unconditional:
        allowed = "a label of a run with data.unlabelled above 0, or a weaker model (--guide-with @guide)"
        raise UserError(f"guidance needs {allowed}, got guidance {chosen.scale:g}")
    return chosen


def open_guide(pipeline: Pipeline, name: str) -> LoadedRun:
    """Load a guide on the device of the pipeline that it guides.

    Args:
        pipeline: the model that is guided.
        name: the path of a run or checkpoint, "@NAME", or both, such as "runs/small-1@raw". Without a path,
            the sampled run itself is meant. NAME is a step, "best", "guide", or weights such as "raw".
            "@guide" are the early weights that training keeps (`report.guide`).

    Raises:
        UserError: if there is no such run, checkpoint or weights.
    """
    itself = find_run_folder(pipeline.checkpoint.run) if isinstance(pipeline, LoadedRun) else None
    path, weights = parse_place(name, itself)
    on = pipeline.runtime
    return load(path, weights, device=on.device, threads=on.threads, compiling=on.compile)


def _check_guide(pipeline: Pipeline, label: Label, steps: int, guidance: Guidance, guide: LoadedRun) -> None:
    """Check that a guide predicts the same images, at the noise levels and with the labels of the samples.

    Raises:
        UserError: if it does not; also if the guide is a distilled student.
    """
    check_diffusion_model(guide.recipe, "a guide must be", str(guidance.guide))
    if label is None:
        check_unconditional(guide.recipe, f"the guide {guidance.guide}")
    labelled = label is not None and guide.recipe.data.conditional
    if _list_meanings(pipeline, labelled) != _list_meanings(guide, labelled):
        what = "image size, the pixels and the classes, clusters or vectors"
        raise UserError(f"the guide {guidance.guide} must have the {what} of the model")
    schedule = pipeline.recipe.sampling_schedule
    times = pipeline.recipe.times(steps)
    guided = times[lies_inside(schedule(times).log_snr, guidance.interval)]
    if len(guided):
        check_reach(guide.recipe.schedule, schedule(guided), "guidance_interval", "the guide")


def _list_meanings(pipeline: Pipeline, labelled: bool) -> list[object]:
    """Return what decides the meaning of images, and of labels if `labelled`."""
    clusters, vectors = pipeline.clusters, pipeline.vectors
    centres = clusters and clusters.centres.tolist()
    scale = vectors and (vectors.columns, vectors.mean.tolist())
    labels = [pipeline.classes, centres, scale] if labelled else []
    return [pipeline.model.shape, pipeline.pixels, *labels]


# What `ddim search` saved


def find_searched_grid(pipeline: Pipeline, sampler: Sampler, steps: int) -> Listed | None:
    """Return the grid that `ddim search` saved with the run of a pipeline; None if none fits its recipe."""
    if not isinstance(pipeline, LoadedRun) or pipeline.list_changed("grid", "sampled_on"):
        return None
    return find_saved_grid(pipeline.checkpoint.run, sampler, steps, pipeline.checkpoint.weights)


def find_searched_guidance(pipeline: Pipeline, label: Label, steps: int) -> Guidance | None:
    """Return the guidance that `ddim search` saved with the run of a pipeline; its guide is not loaded.

    Saved guidance holds for one sampler, one number of steps and one kind of weights, and for samples either
    with labels or without. The result is None if none was saved for these samples, if `pipeline` is no run,
    or if its schedule of sampling or its clipping was changed since it was loaded.
    """
    if not isinstance(pipeline, LoadedRun) or pipeline.list_changed("sampled_on", "clip"):
        return None
    at = pipeline.checkpoint
    name = name_search(pipeline.recipe.sampler, steps, at.weights) | {"labelled": label is not None}
    if entry := find_searched(at.run, "guidance", name):
        return Guidance(entry["scale"], entry["interval"], entry["guide"], searched=True)
    return None


def save_guidance(
    run: Path, sampler: Sampler, steps: int, weights: str, found: Guidance | None, *, labelled: bool
) -> None:
    """Save guidance in the run folder; samples use it if `searched` is on and no guidance scale is given.

    Args:
        run: the run folder.
        sampler: the sampler for which guidance was searched.
        steps: number of sampling steps.
        weights: the weights of the model, such as "ema".
        found: the guidance; None removes what an earlier search saved.
        labelled: whether samples have a class label.
    """
    name = name_search(sampler, steps, weights) | {"labelled": labelled}
    # The samples may be made from another working folder.
    pinned = {"guide": found and found.guide and pin_place(found.guide)}
    save_searched(run, "guidance", name, None if found is None else found.to_json() | pinned)
