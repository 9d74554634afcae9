"""Prepare a run to edit images, and count the network evaluations of the edit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Counted, Denoiser, Model
from ddim.diffusion.editing import invert, restore
from ddim.diffusion.grids import Grid, Uniform, UniformLogSNR
from ddim.diffusion.guidance import Interval
from ddim.diffusion.samplers import State, last_state
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


class EditOptions(TypedDict, total=False):
    """The options of every edit.

    Only a weaker model can guide an edit, unless the run has clusters or vectors; an inversion takes no
    guidance.

    Attributes:
        grid: the grid of times (timesteps) or its name. By default, edits of samples use the grid of the run,
            and edits of real images use `choose_edit_grid`.
        guidance: guidance scale; by default 1, which turns guidance off.
        guidance_interval: (low, high), the log-SNRs with guidance; None for all.
        guide_with: the weaker model, such as "@guide"; see `ddim.sampling.guidance.open_guide`.
        progress: called with "network evaluations" and their number; see `Progress`. Each evaluation is on
            one micro-batch.
        watch: called as watch(places, state) for each state of each micro-batch of samples; `places` are the
            positions of the micro-batch's images in the result. An inversion has no such states: its steps
            lead from the image to noise.
    """

    grid: Grid | str | None
    guidance: float | None
    guidance_interval: Interval | None
    guide_with: str | Path | LoadedRun | None
    progress: Progress
    watch: Watch | None


@dataclass
class EditSetup:
    """A model that is prepared for an edit.

    Attributes:
        pipeline: the model with the recipe and the grid of the edit.
        times: the times (N,) of the grid.
        real: whether real images are edited, and not samples.
        guidance: the guidance of the edit.
        label: the label of results that are sampled with seeds; None for no class.
        progress: see `EditOptions`.
        watch: see `EditOptions`.
        notes: sentences on the images and the accuracy of the edit.
        expected: the number of network evaluations that the edit will make, as far as it is known.
        counters: the counters of the network evaluations so far.
    """

    pipeline: Pipeline
    times: Tensor
    real: bool
    guidance: Guidance
    label: Label
    progress: Progress
    watch: Watch | None
    notes: list[str] = field(default_factory=list)
    expected: int = 0
    counters: list[Counted] = field(default_factory=list)

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
        self.counters += counters
        return self.pipeline.denoiser(inner, consistent=self.real)

    @property
    def calls(self) -> int:
        """The number of network evaluations so far, each on one micro-batch."""
        return sum(counter.evaluations for counter in self.counters)

    def expect(self, images: int, evaluations: int) -> None:
        """Add the network evaluations for a number of images to `expected`.

        Each micro-batch needs `evaluations` of them, or twice as many with guidance.
        """
        batches = math.ceil(images / self.pipeline.runtime.micro_batch)
        self.expected += batches * evaluations * (2 if self.guidance.on else 1)

    def _leave(self, x0: Tensor) -> Tensor:
        """Return x0, given in model units, as images in [0, 1] on the CPU."""
        return self.pipeline.pixels.leave(x0.float()).cpu()

    def find_latents(self, images: Tensor, *, exact: bool = False) -> tuple[Tensor, float]:
        """Return the latents of images (B, C, H, W) in [0, 1], and the residual of steps without convergence.

        The residual is the largest change in the last iteration of an exact step that did not converge.
        """
        residuals = [0.0]

        def find(x0: Tensor) -> Tensor:
            latent, residual = invert(self.denoise, x0, self.times, exact=exact)
            residuals.append(residual)
            return latent

        latents = self._in_batches(find, self.pipeline.pixels.enter(images), exact=exact)
        return latents.float(), max(residuals)

    def restore(self, latents: Tensor, *, exact: bool = False) -> Tensor:
        """Return the images (B, C, H, W) in [0, 1] whose latents `find_latents` found."""
        return self._leave(
            self._in_batches(lambda z: restore(self.denoise, z, self.times), latents, exact=exact)
        )

    def _in_batches(self, act: Callable[[Tensor], Tensor], x: Tensor, *, exact: bool = False) -> Tensor:
        """Return `act(x)` for x (B, C, H, W), computed in micro-batches of the run's fixed size.

        The network has the precision of the run, or float32 if `exact`.
        """
        runtime = self.pipeline.runtime
        results = []
        with evaluating(self.pipeline.model), runtime if exact else runtime.precise():
            for part in x.split(runtime.micro_batch):
                rest = runtime.micro_batch - len(part)
                filled = torch.cat([part, part[-1:].expand(rest, -1, -1, -1)])
                results.append(act(runtime.images(filled))[: len(part)].cpu())
        return torch.cat(results)

    def sample(
        self, walk: Callable[[Denoiser, Tensor, Sequence[int]], Iterator[State]], seeds: Sequence[int]
    ) -> Tensor:
        """Return one image in [0, 1] for each seed, made in micro-batches.

        Args:
            walk: takes a denoiser, zeros (B, C, H, W) and B seeds, and yields sampling states.
            seeds: one seed for each image.
        """
        results, done = [], 0
        for mine, filled, blank, labels in fill_micro_batches(self.pipeline, seeds, self.label):
            denoise = self._condition(labels)
            places = range(done, done + len(mine))
            with evaluating(self.pipeline.model), self.pipeline.runtime.precise():
                state = last_state(self._watched(walk(denoise, blank, filled), places))
                results.append(self._leave(state.x0)[: len(mine)])
            done += len(mine)
        return torch.cat(results)

    def _watched(self, states: Iterator[State], places: Sequence[int]) -> Iterator[State]:
        """Yield the states of a micro-batch, and call `watch` with the images at `places` of the result.

        Further images only fill up the micro-batch.
        """
        for state in states:
            if self.watch is not None:
                self.watch(places, state.first(len(places)))
            yield state


def open_edit(
    source: Source,
    what: str,
    steps: int,
    options: EditOptions,
    *,
    inverts: bool = False,
    seeded: bool = False,
) -> EditSetup:
    """Return a pipeline that is prepared for an edit.

    Args:
        source: a run folder, a pipeline or a model.
        what: the name of the edit in messages, such as "an inversion".
        steps: number of timesteps in the grid.
        options: see `EditOptions`.
        inverts: whether the edit needs latents of real images. Such an edit cannot be guided, because
            guidance makes these latents inaccurate.
        seeded: whether a real image is edited, and each result has its own seed. Such results have the
            default label of samples. Other edits use no class, because all their images need the same model.

    Raises:
        UserError: if the run is a student, or the edit uses no class, but the network was never trained
            without a class. Also if the grid cannot have `steps` timesteps, or this edit cannot use guidance.
    """
    given: dict[str, Any] = {"grid": None, "progress": ignore_progress, "watch": None, **options}
    grid = given.pop("grid")
    progress = given.pop("progress")
    watch = given.pop("watch")
    # A latent needs a step from the image to noise.
    check_count("steps", steps, 2 if inverts else 1)
    if inverts and given.get("guidance") not in (None, 1):
        raise UserError(
            f"{what} cannot be guided, because guidance multiplies the errors of latents (Mokady et al. "
            f"2023): leave guidance out, got {given['guidance']}"
        )
    pipeline = open_pipeline(source)
    real = inverts or seeded
    check_diffusion_model(pipeline.recipe, f"{what} needs")
    label = default_label(pipeline.recipe) if seeded else None
    if label is None:
        check_unconditional(pipeline.recipe, what)
    pipeline = pipeline.with_recipe(grid=grid or choose_edit_grid(pipeline.recipe, real=real))
    recipe = pipeline.recipe
    check_steps(recipe, steps)
    guidance = open_guidance(pipeline, label, steps, collect_guidance(**given) or OFF)
    times = recipe.grid(steps, recipe.sampling_schedule)
    return EditSetup(pipeline, times, real, guidance, label, progress, watch)


def choose_edit_grid(recipe: Recipe, fields: Mapping[str, Any] | None = None, *, real: bool = True) -> Grid:
    """Return the default grid of an edit, after changing the fields that a user sets.

    For samples, the default is the recipe's own grid. This may end at a time with much noise, but real images
    have no noise. Their default grid has equal steps of log-SNR and ends at log-SNR 6 (sigma 0.05). Inversion
    is most accurate on this grid. If the schedule does not reach log-SNR 6, it is a grid of uniform times.

    Args:
        recipe: the recipe of the run.
        fields: new values keyed by field path, such as {"grid": "uniform_log_snr", "grid.end": "1"}.
        real: whether real images are edited, and not samples.

    Raises:
        UserError: if a field does not exist, or a value is invalid.
    """
    if real and "grid" not in (fields or {}):
        cleanest = recipe.sampling_schedule(torch.zeros((), dtype=torch.float64)).log_snr
        grid = UniformLogSNR()
        recipe = replace(recipe, grid=grid if cleanest > grid.end else Uniform())
    return override(recipe, fields).grid if fields else recipe.grid
