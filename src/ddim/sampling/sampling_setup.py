"""How a model is sampled: the options of a user become one value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Counted, Denoiser
from ddim.diffusion.grids import Grid
from ddim.diffusion.noise import Noise
from ddim.diffusion.parameterisation import Prediction, from_image
from ddim.diffusion.samplers import Sampler, last_state
from ddim.diffusion.schedules import Schedule
from ddim.recipe.checks import check_recipe, check_steps
from ddim.recipe.codec import override_sampling
from ddim.sampling.guidance import OFF, Guidance, open_guidance
from ddim.sampling.labels import Label
from ddim.sampling.pipeline import LoadedRun, Pipeline

P = TypeVar("P", bound=Pipeline)


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
        recipe = self.pipeline.recipe
        return recipe.grid(self.steps, recipe.sampling_schedule)

    def condition(self, labels: Tensor | None) -> tuple[Denoiser, list[Counted]]:
        """Return the guided denoiser for a batch with these labels, and the counters of its evaluations."""
        guided, counters = self.guidance.apply(self.pipeline.model, labels)
        return self.pipeline.denoiser(guided, consistent=self.consistent), counters

    def count_evaluations(self) -> int:
        """Return the number of network evaluations that each sample needs (NFE).

        A step inside the interval of guidance needs twice as many evaluations as a step outside. To count
        them, the sampler runs on one image, with denoisers that predict 0.
        """
        recipe = self.pipeline.recipe
        guided, counters = self.guidance.combine(*(Counted(_Zero(recipe.schedule)) for _ in range(2)))
        blank = torch.zeros(self.pipeline.model.blank(1).shape)
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
    sampler: Sampler | str | None = None,
    grid: Grid | str | Sequence[float] | None = None,
    guidance: Guidance | None = None,
) -> SamplingSetup[P]:
    """Return how a model is sampled with the options that a user gives; the guide is loaded.

    A grid that `ddim search` saved for the sampler and the number of steps replaces the grid of the recipe.
    This does not happen if the options change the grid or the schedule of sampling.

    Args:
        pipeline: the model.
        steps: number of sampling steps; None for the recipe's.
        label: the label of the samples, see `Pipeline.find_label`.
        fields: new values of sampling fields keyed by path, see `override_sampling`; None changes nothing.
        sampler: the sampler or its name; None for that of the recipe.
        grid: the grid, its name or a list of times; None for that of `ddim search` or of the recipe.
        guidance: see `collect_guidance`; None for that of `ddim search`, or else no guidance.

    Raises:
        UserError: if the options cannot be used together or with this model.
    """
    steps = len(grid) if steps is None and isinstance(grid, list | tuple | Tensor) else steps
    steps = pipeline.recipe.choose_steps(steps)
    parts = {"sampler": sampler, "grid": grid}
    pipeline = pipeline.with_recipe(**{name: part for name, part in parts.items() if part is not None})
    if fields is not None:
        # Even without changes, values become those of a file: eta 1 becomes 1.0, in records and cache keys.
        pipeline = replace(pipeline, recipe=override_sampling(pipeline.recipe, fields))
    chosen = grid is not None or {"grid", "sampled_on"} & {name.split(".")[0] for name in fields or ()}
    searched = None if chosen else pipeline.searched_grid(pipeline.recipe.sampler, steps)
    pipeline = pipeline.with_recipe(grid=searched) if searched else pipeline
    if isinstance(pipeline, LoadedRun):  # the recipe of a bare model does not describe its network
        check_recipe(pipeline.recipe)
    check_steps(pipeline.recipe, steps)
    guided = open_guidance(pipeline, label, steps, guidance)
    return SamplingSetup(pipeline, steps, label, guided, searched=searched is not None)
