"""Prepare a run to edit images: invert, interpolate, inpaint and vary them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Counted, Denoiser, Model
from ddim.diffusion.grids import Grid, Uniform, UniformLogSNR
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import Sampler, State, final_sample, last_state
from ddim.errors import UserError, check_count
from ddim.runs.generate import fill_micro_batches
from ddim.runs.guidance import OFF, Guidance
from ddim.runs.guidance_choice import GuidanceOptions, open_label_free_guidance
from ddim.runs.pipeline import Pipeline, open_pipeline
from ddim.runs.progress import Progress, ignore_progress
from ddim.runs.recipe import Recipe
from ddim.runs.recipe_checks import check_steps, check_unconditional

Source = str | Path | Pipeline | Model


class EditOptions(GuidanceOptions, total=False):
    """The options of every edit; for guidance, see `GuidanceOptions`.

    Attributes:
        grid: the grid of times (timesteps) or its name. By default, edits of samples use the grid of the run,
            and edits of real images use `choose_edit_grid`.
        progress: called with "network evaluations" and their number; see `Progress`. Each evaluation is of
            one micro-batch.
    """

    grid: Grid | str | None
    progress: Progress


@dataclass
class Work:
    """A pipeline that is prepared for an edit.

    Attributes:
        pipeline: the model with the recipe and the grid of the edit.
        denoise: the model with the sampling schedule and the clipping of the recipe.
        counters: count the evaluations of the model and of its guide.
        times: the times (N,) of the grid.
        guidance: the guidance of the edit.
        expected: the number of network evaluations that the edit will make, as far as it is known.
    """

    pipeline: Pipeline
    denoise: Denoiser
    counters: list[Counted]
    times: Tensor
    guidance: Guidance = OFF
    expected: int = 0

    @property
    def calls(self) -> int:
        """The number of network evaluations so far, each on one micro-batch."""
        return sum(counter.evaluations for counter in self.counters)

    def expect(self, images: int, evaluations: int) -> None:
        """Add to `expected` the work for a number of images: `evaluations` steps for each micro-batch."""
        batches = math.ceil(images / self.pipeline.runtime.micro_batch)
        self.expected += batches * evaluations * len(self.counters)

    def leave(self, x0: Tensor) -> Tensor:
        """Return x0, which is in model units, as images in [0, 1] on the CPU."""
        return self.pipeline.pixels.leave(x0.float()).cpu()

    def precision(self, exact: bool = False) -> AbstractContextManager[Any]:
        """Return a context for the network: with the precision of the run, or with float32 if `exact`."""
        return self.pipeline.runtime if exact else self.pipeline.runtime.precise()

    def end(self, states: Iterator[State]) -> Tensor:
        """Return the sample x0, in model units, at the end of a sampler's states."""
        return final_sample(self.denoise, last_state(states))

    def sample(self, sampler: Sampler, latents: Tensor) -> Tensor:
        """Return the samples x0 (B, C, H, W), in model units, of latents (B, C, H, W)."""
        return self.end(sampler(self.denoise, latents, self.times, Noise(range(len(latents)))))

    def in_batches(self, act: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return `act(x)` for x (B, C, H, W), computed in micro-batches of the run's fixed size."""
        size, results = self.pipeline.runtime.micro_batch, []
        for part in x.split(size):
            filled = torch.cat([part, part[-1:].expand(size - len(part), -1, -1, -1)])
            results.append(act(self.pipeline.runtime.images(filled))[: len(part)].cpu())
        return torch.cat(results)

    def for_seeds(self, act: Callable[[Tensor, Noise], Tensor], seeds: Sequence[int]) -> Tensor:
        """Return one image in [0, 1] for each seed, made by `act` in micro-batches.

        Args:
            act: returns x0 (B, C, H, W) in model units, from zeros of this shape and the noise of B seeds.
            seeds: one seed for each image.
        """
        results = []
        for mine, filled, blank in fill_micro_batches(self.pipeline, seeds):
            with self.precision():
                results.append(self.leave(act(blank, Noise(filled)))[: len(mine)])
        return torch.cat(results)


def open_work(
    source: Source,
    what: str,
    steps: int,
    *,
    real: bool = True,
    inverts: bool = False,
    **options: Unpack[EditOptions],
) -> Work:
    """Return a pipeline that is prepared for an edit.

    Args:
        source: a run folder, a pipeline or a model.
        what: the name of the edit in messages, such as "an inversion".
        steps: number of times in the grid.
        real: True to edit real images, False to edit samples; the default grid depends on this.
        inverts: whether the edit needs latents of real images, which guidance makes inaccurate.
        options: see `EditOptions`.

    Raises:
        UserError: if the network was never trained without a class label, the grid cannot have `steps` times,
            or the edit cannot be guided like this.
    """
    check_count("steps", steps)
    guided: dict[str, Any] = {k: v for k, v in options.items() if k in GuidanceOptions.__annotations__}
    if inverts and guided.get("guidance") not in (None, 1):
        raise UserError(
            f"{what} cannot be guided, because guidance multiplies the errors of latents (Mokady et al. "
            f"2023): leave guidance out, got {guided['guidance']}"
        )
    pipeline = open_pipeline(source)
    check_unconditional(pipeline.recipe, what)
    own = choose_edit_grid(pipeline.recipe) if real else pipeline.recipe.grid
    pipeline = pipeline.with_recipe(grid=options.get("grid") or own)
    recipe = pipeline.recipe
    check_steps(recipe, steps)
    guidance = open_label_free_guidance(pipeline, what, steps, **guided)
    inner, counters = guidance.apply(pipeline.model, None)
    times = recipe.grid(steps, recipe.sampling_schedule)
    work = Work(pipeline, pipeline.denoiser(inner, consistent=real), counters, times, guidance)
    progress = options.get("progress", ignore_progress)
    for counter in counters:
        counter.watch = lambda _: progress("network evaluations", work.calls, max(work.calls, work.expected))
    return work


def choose_edit_grid(recipe: Recipe) -> Grid:
    """Return the default grid for edits of real images.

    The recipe's own grid may end at a time with much noise, but real images have no noise. The default grid
    has equal steps of log-SNR and ends at log-SNR 6 (sigma 0.05). Inversion is most accurate on this grid. If
    the schedule does not reach log-SNR 6, the default is a grid of uniform times.
    """
    cleanest = recipe.sampling_schedule(torch.zeros((), dtype=torch.float64)).log_snr
    return UniformLogSNR() if cleanest > UniformLogSNR().end else Uniform()
