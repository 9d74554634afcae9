"""Edits of real images with a run: invert, interpolate, inpaint, vary.

Each takes a pipeline and images (B, C, H, W) in [0, 1], and returns an `Edit`. See `edit_folder` for files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Counted, Denoiser, Model
from ddim.diffusion.editing import Inpaint, interpolate_latents, invert, restore, vary
from ddim.diffusion.grids import Grid, Uniform, UniformLogSNR
from ddim.diffusion.noise import Noise, check_seeds
from ddim.diffusion.samplers import DDIM, Sampler, State, final_sample, initial_noise, last_state
from ddim.errors import UserError, check_count
from ddim.runs.generate import fill_micro_batches
from ddim.runs.pipeline import Pipeline, open_pipeline
from ddim.runs.recipe import Recipe
from ddim.runs.recipe_checks import check_steps, check_unconditional

NOISY = 0.05
"""The largest sigma of the cleanest level at which an image without noise may pass for a state."""

Source = str | Path | Pipeline | Model


@dataclass(frozen=True)
class Edit:
    """The result of an edit.

    `rows` are images (B, C, H, W) in [0, 1] by name, from the input to the result. `calls` counts the calls
    of the network, each on one micro-batch. `facts` are further results and choices, as JSON.
    """

    pipeline: Pipeline
    times: Tensor
    rows: dict[str, Tensor]
    calls: int
    facts: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return one line: rows, times and network calls."""
        rows = ", ".join(f"{name} {tuple(images.shape)}" for name, images in self.rows.items())
        return f"Edit({rows}; {len(self.times)} times, {self.calls} network calls)"

    @property
    def images(self) -> Tensor:
        """The result: the last of the rows."""
        return list(self.rows.values())[-1]


@dataclass(frozen=True, repr=False)
class Inversion(Edit):
    """An edit with the latents (B, C, H, W) of its images.

    `errors` (B,) are the mean squared errors of the round trip. `residual` is the largest change in the last
    iteration of a step that did not converge, else 0; only exact inversions iterate.
    """

    latents: Tensor = torch.zeros(0)
    errors: Tensor = torch.zeros(0)
    residual: float = 0.0


def invert_images(
    source: Source, images: Tensor, steps: int = 50, *, grid: Grid | None = None, exact: bool = False
) -> Inversion:
    """Find the latents, the noise from which DDIM makes the images, and the images that they lead back to.

    Args:
        source: a run folder, a pipeline or a model.
        images: (B, C, H, W) in [0, 1], of the model's size.
        steps: number of times in the grid.
        grid: the times, by default those of `choose_edit_grid`.
        exact: solve each step by iteration, in float32, instead of extrapolating its slope.

    Raises:
        UserError: if the run was trained with a class for every image, or its grid cannot have `steps` times.
    """
    work = _open(source, "an inversion", steps, grid)
    residuals = [0.0]

    def find_latents(x0: Tensor) -> Tensor:
        found = invert(work.denoise, x0, work.times, exact=exact)
        residuals.append(0.0 if found.converged else found.residual)
        return found.latent

    with work.precision(exact):
        latents = work.in_batches(find_latents, work.pipeline.pixels.enter(images)).float()
        restored = work.leave(work.in_batches(lambda z: restore(work.denoise, z, work.times), latents))
    errors = (restored - images).square().mean((1, 2, 3))
    # Latents that overflowed give NaN, which JSON does not have.
    facts = {
        "exact": exact,
        "converged": max(residuals) == 0,
        "squared_errors": [error if math.isfinite(error) else None for error in errors.tolist()],
    }
    shown = (latents / latents.std() / 6 + 0.5).clamp(0, 1)
    edit = work.finish({"image": images, "latent": shown, "back": restored}, facts)
    return Inversion(**vars(edit), latents=latents, errors=errors, residual=max(residuals))


def interpolate_seeds(
    source: Source, seeds: Sequence[int], frames: int = 9, steps: int = 50, *, grid: Grid | None = None
) -> Edit:
    """Interpolate between the samples of two seeds, with the run's own sampler and grid.

    Latents are interpolated along the sphere near which noise lies.

    Raises:
        UserError: if there are not two seeds, or fewer than two frames.
    """
    if len(seeds) != 2:
        raise UserError(f"an interpolation needs two seeds, got {len(seeds)}")
    check_seeds(seeds)
    work = _open(source, "an interpolation", steps, grid, real=False)
    with work.precision():
        blank = work.pipeline.model.blank(2).cpu()
        first, second = initial_noise(work.denoise.schedule, Noise(seeds), blank, work.times[0])
        latents = interpolate_latents(first, second, frames)
        x0 = work.in_batches(lambda z: work.sample(work.pipeline.recipe.sampler, z), latents)
    return work.finish({"frame": work.leave(x0)}, {"between_seeds": list(seeds)})


def interpolate_images(
    source: Source, images: Tensor, frames: int = 9, steps: int = 50, *, grid: Grid | None = None
) -> Edit:
    """Interpolate between two real images (2, C, H, W) in [0, 1], which are inverted first.

    Latents are interpolated along the sphere near which noise lies. The first and the last frame are the two
    images restored from their latents.

    Raises:
        UserError: if there are not two images, or fewer than two frames.
    """
    if len(images) != 2:
        raise UserError(f"an interpolation needs two images, got {len(images)}")
    work = _open(source, "an interpolation", steps, grid)
    with work.precision():
        x0 = work.pipeline.pixels.enter(images)
        first, second = work.in_batches(lambda x0: invert(work.denoise, x0, work.times).latent, x0)
        latents = interpolate_latents(first, second, frames)
        way = work.in_batches(lambda z: work.sample(DDIM(), z), latents)
        # At the ends the images are restored from their latents, without the final denoising of a sample.
        ends = latents[[0, -1]]
        way[[0, -1]] = work.in_batches(lambda z: restore(work.denoise, z, work.times), ends)
    return work.finish({"frame": work.leave(way)}, {"between_seeds": []})


def inpaint_image(
    source: Source,
    image: Tensor,
    hole: Tensor,
    seeds: Sequence[int] = range(4),
    steps: int = 50,
    *,
    resample: int = 5,
    grid: Grid | None = None,
) -> Edit:
    """Generate a part of an image anew (RePaint, Lugmayr et al. 2022); the rest is unchanged, bit for bit.

    Args:
        source: a run folder, a pipeline or a model.
        image: (1, C, H, W) in [0, 1].
        hole: (1, 1, H, W), 1 where new content is generated and 0 where the image is kept.
        seeds: one for each result.
        steps: number of times in the grid.
        resample: how often each step is done; noise is added back in between, so that both parts agree.
        grid: the times, by default those of `choose_edit_grid`.

    Raises:
        UserError: if the hole is empty or covers the whole image, or a number is out of range.
    """
    check_count("resample", resample)
    check_seeds(seeds)
    if not 0 < hole.mean() < 1:
        raise UserError("a hole needs pixels to paint and pixels to keep")
    work = _open(source, "inpainting", steps, grid)
    paint = Inpaint(work.pipeline.pixels.enter(image), hole, resample)

    def fill(blank: Tensor, noise: Noise) -> Tensor:
        x = initial_noise(work.denoise.schedule, noise, blank, work.times[0])
        return work.end(paint(work.denoise, x, work.times, noise))

    # The given image: converting it to model units and back would round it.
    painted = work.for_seeds(fill, seeds) * hole + image * (1 - hole)
    facts = {"resample": resample, "seed": seeds[0]}
    return work.finish({"image": image, "hole": image * (1 - hole) + hole, "painted": painted}, facts)


def vary_image(
    source: Source,
    image: Tensor,
    strength: float = 0.5,
    seeds: Sequence[int] = range(8),
    steps: int = 50,
    *,
    grid: Grid | None = None,
) -> Edit:
    """Generate variations of an image: add noise to time `strength`, then denoise (Meng et al. 2022).

    Args:
        source: a run folder, a pipeline or a model.
        image: (1, C, H, W) in [0, 1].
        strength: time in (0, 1]; 0.3 changes details, 0.6 shapes, 1 nearly everything.
        seeds: one for each result.
        steps: number of times in the grid, of which those below `strength` are used.
        grid: the times, by default those of `choose_edit_grid`.

    Raises:
        UserError: if the strength or a seed is out of range.
    """
    check_seeds(seeds)
    work = _open(source, "a variation", steps, grid)
    x0 = work.pipeline.pixels.enter(image)

    def vary_batch(blank: Tensor, noise: Noise) -> Tensor:
        begin = blank + x0.to(blank)
        return work.end(vary(work.denoise, begin, strength, work.times, DDIM(), noise))

    varied = work.for_seeds(vary_batch, seeds)
    times = [strength, *work.times[work.times < strength].tolist()]
    return work.finish(
        {"image": image, "varied": varied}, {"strength": strength, "seed": seeds[0], "times": times}
    )


def choose_edit_grid(recipe: Recipe) -> Grid:
    """Return the grid for edits of real images: the grid of the recipe may end at a noisy level.

    It has equal steps of log-SNR up to 6 (sigma 0.05), on which the slopes of an inversion are closest to
    linear. If the log-SNR of the schedule ends below 6, the times are uniform.
    """
    cleanest = recipe.sampling_schedule(torch.zeros((), dtype=torch.float64)).log_snr
    return UniformLogSNR() if cleanest > UniformLogSNR().end else Uniform()


def warn_of_noise(edit: Edit) -> str | None:
    """Return a sentence if the schedule or the grid ends where images still hold noise, else None."""
    schedule = edit.pipeline.recipe.sampling_schedule
    clean, end = (schedule(t) for t in (torch.zeros((), dtype=torch.float64), edit.times[-1]))
    if clean.sigma > NOISY:
        return (
            f"at t = 0 this run's schedule still holds noise, sigma = {clean.sigma:.2f}: an image "
            "without noise is no state of it, and its latent is that of a slightly different, grainy image"
        )
    if end.sigma > NOISY:
        return (
            f"the last of these {len(edit.times)} levels has sigma = {end.sigma:.2f}, which an image "
            "without noise lacks: its latent is that of a slightly different one; more steps come nearer"
        )
    return None


@dataclass(frozen=True)
class _Work:
    """A pipeline that is open for an edit: its denoiser, the counter of its network calls, the times (N,)."""

    pipeline: Pipeline
    denoise: Denoiser
    counter: Counted
    times: Tensor

    def leave(self, x0: Tensor) -> Tensor:
        """Return images in [0, 1] on the CPU."""
        return self.pipeline.pixels.leave(x0.float()).cpu()

    def precision(self, exact: bool = False) -> AbstractContextManager[Any]:
        """Enter the precision of the run, or float32 for an edit that must be exact."""
        return self.pipeline.runtime if exact else self.pipeline.runtime.precise()

    def end(self, states: Iterator[State]) -> Tensor:
        """Run a sampler to its end and return the sample."""
        return final_sample(self.denoise, last_state(states))

    def sample(self, sampler: Sampler, latents: Tensor) -> Tensor:
        """Sample from latents (B, C, H, W)."""
        return self.end(sampler(self.denoise, latents, self.times, Noise(range(len(latents)))))

    def in_batches(self, act: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Apply `act` to x (B, C, H, W) in micro-batches of the run's fixed size."""
        size, results = self.pipeline.runtime.micro_batch, []
        for part in x.split(size):
            filled = torch.cat([part, part[-1:].expand(size - len(part), -1, -1, -1)])
            results.append(act(self.pipeline.runtime.images(filled))[: len(part)].cpu())
        return torch.cat(results)

    def for_seeds(self, act: Callable[[Tensor, Noise], Tensor], seeds: Sequence[int]) -> Tensor:
        """Apply `act` to blank images and noise, one micro-batch of seeds at a time; return the images."""
        results = []
        for mine, filled, blank in fill_micro_batches(self.pipeline, seeds):
            with self.precision():
                results.append(self.leave(act(blank, Noise(filled)))[: len(mine)])
        return torch.cat(results)

    def finish(self, rows: dict[str, Tensor], facts: dict[str, Any]) -> Edit:
        """Return the result of the edit."""
        return Edit(self.pipeline, self.times, rows, self.counter.evaluations, facts)


def _open(source: Source, what: str, steps: int, grid: Grid | None, *, real: bool = True) -> _Work:
    """Open a pipeline for an edit, of real images or of samples, on a grid of `steps` times."""
    check_count("steps", steps)
    pipeline = open_pipeline(source)
    check_unconditional(pipeline.recipe, what)
    own = choose_edit_grid(pipeline.recipe) if real else pipeline.recipe.grid
    pipeline = pipeline.with_recipe(grid=grid or own)
    recipe = pipeline.recipe
    check_steps(recipe, steps)
    counter = Counted(pipeline.model)
    return _Work(
        pipeline,
        pipeline.denoiser(counter, consistent=real),
        counter,
        recipe.grid(steps, recipe.sampling_schedule),
    )
