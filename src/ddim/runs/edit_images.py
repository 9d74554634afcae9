"""Edits of real images with a run: invert, interpolate, inpaint, vary.

Each function takes a run and images (B, C, H, W) in [0, 1], and returns an `Edit`. `edit_folder` reads and
writes the files of an edit.
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
"""The largest sigma of a grid's last level at which an image without noise can still be inverted well."""

Source = str | Path | Pipeline | Model


@dataclass(frozen=True)
class Edit:
    """The result of an edit.

    Attributes:
        pipeline: the model that was used.
        times: the times (N,) of the grid.
        rows: images (B, C, H, W) in [0, 1] by name, from the input to the result.
        calls: number of calls of the network, each on one micro-batch.
        facts: further results and options, as JSON.
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
    """The result of an inversion.

    Attributes:
        latents: the latents (B, C, H, W) of the images.
        errors: mean squared errors (B,) between the images and their reconstructions from the latents.
        residual: for an exact inversion, the largest change in the last iteration of a step that did not
            converge; 0 if every step converged.
    """

    latents: Tensor = torch.zeros(0)
    errors: Tensor = torch.zeros(0)
    residual: float = 0.0


def invert_images(
    source: Source, images: Tensor, steps: int = 50, *, grid: Grid | None = None, exact: bool = False
) -> Inversion:
    """Find the latents of images, and reconstruct the images from them.

    The latent of an image is the noise from which DDIM samples this image.

    Args:
        source: a run folder, a pipeline or a model.
        images: (B, C, H, W) in [0, 1], of the model's size.
        steps: number of times in the grid.
        grid: the grid of times, by default that of `choose_edit_grid`.
        exact: whether each step is solved by iteration, in float32, instead of by extrapolation.

    Raises:
        UserError: if the network was never trained without a class label, or the grid cannot have `steps`
            times.
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
    # Where latents overflowed, the error is NaN, which JSON does not have.
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
    """Sample images that lead from the sample of one seed to that of another, by spherical interpolation.

    Args:
        source: a run folder, a pipeline or a model.
        seeds: two seeds.
        frames: number of images, including both ends.
        steps: number of times in the grid.
        grid: the grid of times, by default that of the run.

    Raises:
        UserError: if there are not exactly two seeds, or fewer than two frames.
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
    """Sample images that lead from one real image to another, by spherical interpolation of their latents.

    The first and the last frame are the reconstructions of the two images from their latents.

    Args:
        source: a run folder, a pipeline or a model.
        images: two images (2, C, H, W) in [0, 1].
        frames: number of images, including both ends.
        steps: number of times in the grid.
        grid: the grid of times, by default that of `choose_edit_grid`.

    Raises:
        UserError: if there are not exactly two images, or fewer than two frames.
    """
    if len(images) != 2:
        raise UserError(f"an interpolation needs two images, got {len(images)}")
    work = _open(source, "an interpolation", steps, grid)
    with work.precision():
        x0 = work.pipeline.pixels.enter(images)
        first, second = work.in_batches(lambda x0: invert(work.denoise, x0, work.times).latent, x0)
        latents = interpolate_latents(first, second, frames)
        way = work.in_batches(lambda z: work.sample(DDIM(), z), latents)
        # At both ends, `restore` leaves out the last denoising, as the inversion did.
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
    """Sample a part of an image anew (RePaint, Lugmayr et al. 2022); all other pixels stay bit-identical.

    Args:
        source: a run folder, a pipeline or a model.
        image: (1, C, H, W) in [0, 1].
        hole: (1, 1, H, W), 1 for pixels to paint and 0 for pixels to keep.
        seeds: one for each result.
        steps: number of times in the grid.
        resample: how often each step is repeated. Noise is added before each repetition, so that the painted
            part comes to fit the rest.
        grid: the grid of times, by default that of `choose_edit_grid`.

    Raises:
        UserError: if the hole contains no pixel or all pixels, or a number is out of range.
    """
    check_count("resample", resample)
    check_seeds(seeds)
    if not 0 < hole.mean() < 1:
        raise UserError("the hole must contain pixels to paint (1) and pixels to keep (0)")
    work = _open(source, "inpainting", steps, grid)
    paint = Inpaint(work.pipeline.pixels.enter(image), hole, resample)

    def fill(blank: Tensor, noise: Noise) -> Tensor:
        x = initial_noise(work.denoise.schedule, noise, blank, work.times[0])
        return work.end(paint(work.denoise, x, work.times, noise))

    # Kept pixels are taken from the image itself: changing units twice would change their last bits.
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
    """Sample variations of an image: noise it to time `strength`, then denoise it (SDEdit, Meng et al. 2022).

    Args:
        source: a run folder, a pipeline or a model.
        image: (1, C, H, W) in [0, 1].
        strength: time in (0, 1]; 0.3 changes details, 0.6 shapes, 1 nearly everything.
        seeds: one for each result.
        steps: number of times in the grid; only times below `strength` are used.
        grid: the grid of times, by default that of `choose_edit_grid`.

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
    """Return the default grid for edits of real images.

    The recipe's own grid may end at a level with much noise, but real images have none. This grid has equal
    steps of log-SNR up to 6 (sigma 0.05), for which inversion is most accurate. A schedule that does not
    reach this level gets uniform times.
    """
    cleanest = recipe.sampling_schedule(torch.zeros((), dtype=torch.float64)).log_snr
    return UniformLogSNR() if cleanest > UniformLogSNR().end else Uniform()


def warn_of_noise(edit: Edit) -> str | None:
    """Return a warning if the schedule or the grid ends at a level with noise, else None."""
    schedule = edit.pipeline.recipe.sampling_schedule
    clean, end = (schedule(t) for t in (torch.zeros((), dtype=torch.float64), edit.times[-1]))
    if clean.sigma > NOISY:
        return (
            f"at t = 0 this run's schedule still has noise, sigma = {clean.sigma:.2f}, which a real image "
            "lacks: the latent belongs to a slightly different, grainy image"
        )
    if end.sigma > NOISY:
        return (
            f"the last of these {len(edit.times)} levels still has noise, sigma = {end.sigma:.2f}, which a "
            "real image lacks: the latent belongs to a slightly different image; more steps bring it closer"
        )
    return None


@dataclass(frozen=True)
class _Work:
    """A pipeline in use by an edit: its denoiser, the counter of its network's calls, and the times (N,)."""

    pipeline: Pipeline
    denoise: Denoiser
    counter: Counted
    times: Tensor

    def leave(self, x0: Tensor) -> Tensor:
        """Convert x0 from model units to images in [0, 1] on the CPU."""
        return self.pipeline.pixels.leave(x0.float()).cpu()

    def precision(self, exact: bool = False) -> AbstractContextManager[Any]:
        """Return a context with the precision of the run, or with float32 if the edit must be exact."""
        return self.pipeline.runtime if exact else self.pipeline.runtime.precise()

    def end(self, states: Iterator[State]) -> Tensor:
        """Run a sampler over all its states and return the sample."""
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
        """Return the `Edit` with these rows and facts."""
        return Edit(self.pipeline, self.times, rows, self.counter.evaluations, facts)


def _open(source: Source, what: str, steps: int, grid: Grid | None, *, real: bool = True) -> _Work:
    """Open a pipeline for the edit `what`; the default grid depends on whether `real` images are edited."""
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
