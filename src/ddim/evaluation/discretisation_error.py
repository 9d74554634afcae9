"""The discretisation error of a sampler: the distance of its samples from samples with many steps.

The distance is a mean squared error in model units. Both sets of samples start from the same noise and use
the same first and last time. The reference samples use Heun's method with many equal steps of log-SNR.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.diffusion.samplers import EDM, Sampler
from ddim.diffusion.schedules import Level, Schedule, as_double
from ddim.errors import UserError, check_count
from ddim.machine.progress import Progress, ignore_progress
from ddim.recipe.checks import check_unconditional
from ddim.recipe.recipe import Recipe
from ddim.sampling.generate import fill_micro_batches, find_grid_ends, sample_states
from ddim.sampling.labels import default_label
from ddim.sampling.pipeline import Pipeline, evaluating
from ddim.sampling.sampling_setup import OFF, Guidance

SamplingError = Callable[[Sampler, Tensor], float]
"""Maps a sampler and decreasing times (N,) to the mean squared error of its samples."""


SPACINGS: dict[str, Callable[[Tensor, Level], Tensor]] = {
    "uniform": lambda t, at: t,
    "quadratic": lambda t, at: t.sqrt(),
    "karras": lambda t, at: at.noise_to_signal ** (1 / 7),
    "uniform_log_snr": lambda t, at: at.log_snr,
}
"""The quantity that has equal steps in the times of each spacing, keyed by the name of its grid."""


@dataclass(frozen=True)
class TimeRange:
    """The first and the last time of samples that are compared, on a noise schedule."""

    schedule: Schedule
    last: float
    first: float = 1.0

    def lay_grids(self, steps: int) -> dict[str, Tensor]:
        """Return the times (steps,) of every spacing in `SPACINGS`, keyed by its name."""
        return {name: self.space(name, steps) for name in SPACINGS}

    def space(self, spacing: str, steps: int) -> Tensor:
        """Return decreasing times (steps,) in equal steps of a quantity in `SPACINGS`."""
        times = as_double([self.first, self.last])
        inverse = self.schedule.inverse
        begin, end = SPACINGS[spacing](times, self.schedule(times)).tolist()
        line = torch.linspace(begin, end, steps, dtype=torch.float64)
        if spacing == "uniform_log_snr":
            line = inverse(line)
        elif spacing == "karras":
            line = inverse(-2 * (line**7).log())
        elif spacing == "quadratic":
            line = line**2
        line[0], line[-1] = self.first, self.last
        return line

    def check(self, steps: int) -> None:
        """Check that every named grid has `steps` different noise levels.

        Raises:
            UserError: if a grid has fewer noise levels, `last` is not between 0 and `first`, or `steps` is
                below 3, so that there is no time between the ends.
        """
        check_count("steps", steps, 3)
        first, last = self.first, self.last
        if not 0 < last < first:
            raise UserError(f"--end must lie between 0 and the first time, t = {first:.4g}, got {last}")
        try:
            grids = self.lay_grids(steps)
        except UserError as error:
            raise UserError(f"--end {last:.4g} cannot be the last of {steps} times: {error}") from None
        if not all((self.schedule(times).log_snr.diff() > 0).all() for times in grids.values()):
            raise UserError(
                f"the noise levels of {steps} times from t = {first:.4g} to --end {last:.4g} are not all "
                "different: this schedule is a table with equal entries"
            )


def find_time_range(recipe: Recipe, steps: int, last: float | None = None) -> TimeRange:
    """Return the range of the `steps` times in a recipe's grid; `last` replaces its last time."""
    first, own = find_grid_ends(recipe, steps)
    return TimeRange(recipe.sampling_schedule, own if last is None else float(last), first)


def sample_in_model_units(
    pipeline: Pipeline,
    sampler: Sampler,
    times: Tensor,
    seeds: Sequence[int],
    progress: Progress = ignore_progress,
    guidance: Guidance = OFF,
) -> Tensor:
    """Return samples (B, C, H, W) in model units on the CPU, one per seed, with the run's default label.

    Sampling runs in float32, so that rounding adds nothing to the error.

    Args:
        pipeline: the run.
        sampler: the sampler.
        times: decreasing times (N,).
        seeds: the seeds of the samples.
        progress: called with "reference samples" after each step.
        guidance: the guidance of the samples.

    Raises:
        UserError: if samples have no label by default, but every training image of the run had a label.
    """
    label = default_label(pipeline.recipe)
    if label is None:
        check_unconditional(pipeline.recipe, "a search for times or a comparison of samplers")
    samples, done = [], 0
    with evaluating(pipeline.model), pipeline.runtime:
        for mine, filled, blank, labels in fill_micro_batches(pipeline, seeds, label):
            # Heun's method, which the reference uses, reads only the predicted noise. With consistent=True,
            # clipping changes the predicted noise as well as the predicted image.
            denoise = pipeline.denoiser(guidance.apply(pipeline.model, labels)[0], consistent=True)
            x0 = blank
            for step, state in enumerate(sample_states(denoise, blank, filled, times, sampler)):
                progress("reference samples", done + len(mine) * step / len(times), len(seeds))
                x0 = state.x0
            samples.append(x0[: len(mine)].cpu())
            done += len(mine)
    return torch.cat(samples)


def count_reference_levels(steps: int) -> int:
    """Return the number of timesteps in the grid of the reference: 10 * `steps`, but at least 100.

    Heun's method has order 2: with 10 times as many steps it has a hundredth of the error.
    """
    return max(100, 10 * steps)


def error_against_reference(
    pipeline: Pipeline,
    ends: TimeRange,
    seeds: Sequence[int],
    levels: int,
    progress: Progress = ignore_progress,
    guidance: Guidance = OFF,
) -> SamplingError:
    """Return a function that measures the error of a sampler against reference samples of Heun's method.

    The reference samples are made once, before this function returns.

    Args:
        pipeline: the run.
        ends: the first and the last time.
        seeds: the seeds of the samples.
        levels: number of timesteps in the grid of the reference.
        progress: called with "reference samples" after each step.
        guidance: the guidance of all samples, also of the reference.
    """
    times = ends.space("uniform_log_snr", levels)
    reference = sample_in_model_units(pipeline, EDM(), times, seeds, progress, guidance)

    def error(sampler: Sampler, times: Tensor) -> float:
        samples = sample_in_model_units(pipeline, sampler, times, seeds, ignore_progress, guidance)
        return (samples - reference).square().mean().item()

    return error
