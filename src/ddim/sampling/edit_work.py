"""Prepare a run to edit images: invert, interpolate, inpaint and vary them."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Counted, Denoiser, Model
from ddim.diffusion.grids import Grid, Uniform, UniformLogSNR
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import Sampler, State, last_state
from ddim.errors import UserError, check_count
from ddim.machine.progress import Progress, ignore_progress
from ddim.recipe.checks import check_diffusion_model, check_steps, check_unconditional
from ddim.recipe.codec import override
from ddim.recipe.recipe import Recipe
from ddim.sampling.generate import Watch, fill_micro_batches
from ddim.sampling.guidance import OFF, Guidance, collect_guidance, open_guidance
from ddim.sampling.labels import Label, default_label
from ddim.sampling.pipeline import LoadedRun, Pipeline, evaluating, open_pipeline

Source = str | Path | Pipeline | Model


GUIDANCE = ("guidance", "guidance_interval", "guide_with")
"""The names of the options of guidance; see `collect_guidance`."""


class EditOptions(TypedDict, total=False):
    """The options of every edit.

    Attributes:
        guidance, guidance_interval, guide_with: see `collect_guidance`; by default, an edit is not guided.
        grid: the grid of times (timesteps) or its name. By default, edits of samples use the grid of the run,
            and edits of real images use `choose_edit_grid`.
        progress: called with "network evaluations" and their number; see `Progress`. Each evaluation is on
            one micro-batch.
        watch: called as watch(places, state) for each state of each micro-batch of samples; `places` are the
            positions of the micro-batch's images in the result. An inversion has no such states: its steps
            lead from the image to noise.
    """

    guidance: float | None
    guidance_interval: Interval | None
    guide_with: str | Path | LoadedRun | None
    grid: Grid | str | None
    progress: Progress
    watch: Watch | None


@dataclass
class Work:
    """A pipeline that is prepared for an edit.

    Attributes:
        pipeline: the model with the recipe and the grid of the edit.
        times: the times (N,) of the grid.
        real: whether real images are edited, and not samples.
        guidance: the guidance of the edit.
        label: the label of results that are sampled with seeds; None for no class.
        progress: see `EditOptions`.
        expected: the number of network evaluations that the edit will make, as far as it is known.
        watch: see `EditOptions`.
    """

    pipeline: Pipeline
    times: Tensor
    real: bool = True
    guidance: Guidance = OFF
    label: Label = None
    progress: Progress = ignore_progress
    expected: int = 0
    watch: Watch | None = None
    _counters: list[Counted] = field(default_factory=list)

    @cached_property
    def denoise(self) -> Denoiser:
        """The model without a class, with the sampling schedule and the clipping of the recipe."""
        return self._condition(None)

    def _condition(self, labels: Tensor | None) -> Denoiser:
        """Return the guided model, conditioned on class labels."""
        inner, counters = self.guidance.apply(self.pipeline.model, labels)
        for counter in counters:
            counter.watch = lambda _: self.progress(
                "network evaluations", self.calls, max(self.calls, self.expected)
            )
        self._counters += counters
        return self.pipeline.denoiser(inner, consistent=self.real)

    @property
    def calls(self) -> int:
        """The number of network evaluations so far, each on one micro-batch."""
        return sum(counter.evaluations for counter in self._counters)

    def expect(self, images: int, evaluations: int) -> None:
        """Add the network evaluations for a number of images to `expected`.

        Each micro-batch needs `evaluations` of them, or twice as many with guidance.
        """
        batches = math.ceil(images / self.pipeline.runtime.micro_batch)
        self.expected += batches * evaluations * (2 if self.guidance.on else 1)

    def leave(self, x0: Tensor) -> Tensor:
        """Return x0, given in model units, as images in [0, 1] on the CPU."""
        return self.pipeline.pixels.leave(x0.float()).cpu()

    @contextmanager
    def precision(self, exact: bool = False) -> Generator[None]:
        """Return a context for the network: eval mode, the precision of the run, or float32 if `exact`."""
        runtime = self.pipeline.runtime
        with evaluating(self.pipeline.model), runtime if exact else runtime.precise():
            yield

    def sample(self, sampler: Sampler, latents: Tensor) -> Tensor:
        """Return the samples x0 (B, C, H, W), in model units, of latents (B, C, H, W)."""
        parts = iter(torch.arange(len(latents)).split(self.pipeline.runtime.micro_batch))

        def sample_part(z: Tensor) -> Tensor:
            states = sampler(self.denoise, z, self.times, Noise(range(len(z))))
            return last_state(self._watched(states, next(parts).tolist())).x0

        return self.in_batches(sample_part, latents)

    def _watched(self, states: Iterator[State], places: Sequence[int]) -> Iterator[State]:
        """Yield the states of a micro-batch, and call `watch` with them.

        `watch` gets the images at `places`. Further images only fill up the micro-batch.
        """
        for state in states:
            if self.watch is not None:
                self.watch(places, State(state.x[: len(places)], state.t, state.x0[: len(places)]))
            yield state

    def in_batches(self, act: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return `act(x)` for x (B, C, H, W), computed in micro-batches of the run's fixed size."""
        size, results = self.pipeline.runtime.micro_batch, []
        for part in x.split(size):
            filled = torch.cat([part, part[-1:].expand(size - len(part), -1, -1, -1)])
            results.append(act(self.pipeline.runtime.images(filled))[: len(part)].cpu())
        return torch.cat(results)

    def for_seeds(
        self, act: Callable[[Denoiser, Tensor, Noise], Iterator[State]], seeds: Sequence[int]
    ) -> Tensor:
        """Return one image in [0, 1] for each seed, made in micro-batches.

        Args:
            act: takes a denoiser, zeros (B, C, H, W) and the noise of B seeds, and yields sampling states.
            seeds: one seed for each image.
        """
        results, done = [], 0
        for mine, filled, blank, labels in fill_micro_batches(self.pipeline, seeds, self.label):
            denoise = self._condition(labels)
            places = range(done, done + len(mine))
            done += len(mine)
            with self.precision():
                states = self._watched(act(denoise, blank, Noise(filled)), places)
                x0 = last_state(states).x0
                results.append(self.leave(x0)[: len(mine)])
        return torch.cat(results)


def open_work(
    source: Source,
    what: str,
    steps: int,
    *,
    real: bool = True,
    inverts: bool = False,
    seeded: bool = False,
    **options: Unpack[EditOptions],
) -> Work:
    """Return a pipeline that is prepared for an edit.

    Args:
        source: a run folder, a pipeline or a model.
        what: the name of the edit in messages, such as "an inversion".
        steps: number of timesteps in the grid.
        real: True to edit real images, False to edit samples; the default grid depends on this.
        inverts: whether the edit needs latents of real images. Such an edit cannot be guided, because
            guidance makes these latents inaccurate.
        seeded: whether each result has its own seed. Such results have the default label of samples. Other
            edits use no class, because all their images need the same model.
        options: see `EditOptions`.

    Raises:
        UserError: if the run is a student, or the edit uses no class, but the
            network was never trained without a class. Also if the grid cannot have `steps` timesteps, or this
            edit cannot use guidance.
    """
    # A latent needs a step from the image to noise.
    check_count("steps", steps, 2 if inverts else 1)
    guided: dict[str, Any] = {k: v for k, v in options.items() if k in GUIDANCE}
    given = {name: value for name, value in guided.items() if value is not None}
    if inverts and given and guided.get("guidance") != 1:
        name, value = next(iter(given.items()))
        raise UserError(
            f"{what} cannot be guided, because guidance multiplies the errors of latents (Mokady et al. "
            f"2023): leave {name} out, got {value}"
        )
    pipeline = open_pipeline(source)
    check_diffusion_model(pipeline.recipe, f"{what} needs")
    label = default_label(pipeline.recipe) if seeded else None
    if label is None:
        check_unconditional(pipeline.recipe, what)
    own = choose_edit_grid(pipeline.recipe) if real else pipeline.recipe.grid
    pipeline = pipeline.with_recipe(grid=options.get("grid") or own)
    recipe = pipeline.recipe
    check_steps(recipe, steps)
    guidance = open_guidance(pipeline, label, steps, collect_guidance(**guided) or OFF)
    times = recipe.grid(steps, recipe.sampling_schedule)
    progress, watch = options.get("progress", ignore_progress), options.get("watch")
    return Work(pipeline, times, real, guidance, label, progress, watch=watch)


def override_edit_grid(recipe: Recipe, fields: Mapping[str, Any], *, real: bool) -> Grid:
    """Return the grid of an edit, after changing the fields that a user sets.

    Args:
        recipe: the recipe of the run.
        fields: new values keyed by field path, such as {"grid": "uniform_log_snr", "grid.end": "1"}.
        real: whether real images are edited, and not samples.

    Raises:
        UserError: if a field does not exist, or a value is invalid.
    """
    if real and "grid" not in fields:
        recipe = replace(recipe, grid=choose_edit_grid(recipe))
    return override(recipe, fields).grid


def choose_edit_grid(recipe: Recipe) -> Grid:
    """Return the default grid for edits of real images.

    The recipe's own grid may end at a time with much noise, but real images have no noise. The default grid
    has equal steps of log-SNR and ends at log-SNR 6 (sigma 0.05). Inversion is most accurate on this grid. If
    the schedule does not reach log-SNR 6, the default is a grid of uniform times.
    """
    cleanest = recipe.sampling_schedule(torch.zeros((), dtype=torch.float64)).log_snr
    return UniformLogSNR() if cleanest > UniformLogSNR().end else Uniform()
