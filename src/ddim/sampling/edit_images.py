"""Edits of real images with a run: invert, interpolate, inpaint, vary.

Each edit is a function that takes a run, and images or seeds, and returns an `Edit`. `edit_inputs` opens the
images of an edit, and `edit_folder` writes its results.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.editing import Inpaint, check_strength, interpolate_latents, invert, restore, vary
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import DDIM, State, initial_noise
from ddim.errors import UserError, check_count
from ddim.machine.progress import with_bar
from ddim.plots.charts import plot_strip, rasterise
from ddim.plots.pictures import render_png, to_uint8
from ddim.sampling.edit_inputs import Picture, open_mask, open_pictures, take_seeds
from ddim.sampling.edit_work import EditOptions, Source, Work, open_work
from ddim.sampling.pipeline import Pipeline, open_pipeline

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Edit:
    """The result of an edit.

    Attributes:
        pipeline: the model that was used.
        times: the times (timesteps) (N,) of the grid.
        rows: images (B, C, H, W) in [0, 1], keyed by row name, such as "input"; the last row is the result.
        captions: a caption for each image of the result, such as its seed.
        calls: number of network evaluations, each on one micro-batch.
        facts: further results and options, as JSON.
    """

    pipeline: Pipeline
    times: Tensor
    rows: dict[str, Tensor]
    calls: int
    facts: dict[str, Any] = field(default_factory=dict)
    captions: Sequence[str] = ()

    def __repr__(self) -> str:
        """Return one line with the rows of images and the numbers of timesteps and network evaluations."""
        rows = ", ".join(f"{name} {tuple(images.shape)}" for name, images in self.rows.items())
        return f"Edit({rows}; {len(self.times)} times, {self.calls} network evaluations)"

    def figure(self) -> Figure:
        """Return a figure of all images, in named rows."""
        rows = {name: list(to_uint8(images)) for name, images in self.rows.items()}
        return plot_strip(rows, [str(k) for k in range(max(map(len, rows.values())))])

    def _repr_png_(self) -> bytes:
        return render_png(rasterise(self.figure()))

    @property
    def images(self) -> Tensor:
        """The result: the images of the last row."""
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


@with_bar
def invert_images(
    model: Source,
    images: Picture | Sequence[Picture],
    steps: int = 50,
    *,
    exact: bool = False,
    **options: Unpack[EditOptions],
) -> Inversion:
    """Return the latents of images, and the images that are reconstructed from these latents.

    The latent of an image is the noise from which DDIM samples this image.

    Args:
        model: a run folder, a pipeline or a model.
        images: one image or several.
        steps: number of timesteps in the grid.
        exact: whether each step is solved by iteration, in float32, instead of by extrapolation.
        options: grid, guidance and progress, see `EditOptions`.

    Raises:
        UserError: if the network was never trained without a class label, the grid cannot have `steps`
            timesteps, or `options` turns on guidance.

    Example:
        >>> found = ddim.invert(run, "rose.jpg")
        >>> found.latents, found.errors
    """
    pipeline = open_pipeline(model)
    images = open_pictures(pipeline, images)
    work = open_work(pipeline, "an inversion", steps, inverts=True, **options)
    # Exact steps take more evaluations. Their number is not known in advance, so the shown total then grows.
    work.expect(len(images), 2 * (steps - 1))
    residuals = [0.0]

    def find_latents(x0: Tensor) -> Tensor:
        found = invert(work.denoise, x0, work.times, exact=exact)
        residuals.append(0.0 if found.converged else found.residual)
        return found.latent

    with work.precision(exact):
        latents = work.in_batches(find_latents, work.pipeline.pixels.enter(images)).float()
        restored = work.leave(work.in_batches(lambda z: restore(work.denoise, z, work.times), latents))
    errors = (restored - images).square().mean((1, 2, 3))
    # If a latent overflowed, its error is NaN. JSON has no NaN, so the record gets null.
    facts = {
        "exact": exact,
        "converged": max(residuals) == 0,
        "squared_errors": [error if math.isfinite(error) else None for error in errors.tolist()],
    }
    shown = (latents / latents.std() / 6 + 0.5).clamp(0, 1)
    edit = _finish(work, {"input": images, "latent": shown, "restored": restored}, facts)
    return Inversion(**vars(edit), latents=latents, errors=errors, residual=max(residuals))


@with_bar
def interpolate(
    model: Source,
    images: Picture | Sequence[Picture] | None = None,
    frames: int = 9,
    steps: int = 50,
    *,
    seeds: Sequence[int] | None = None,
    **options: Unpack[EditOptions],
) -> Edit:
    """Sample images between two images, or between the samples of two seeds.

    The latents of both ends are interpolated along the sphere. Between images, the first and the last frame
    are the reconstructions of the two images from their latents.

    Args:
        model: a run folder, a pipeline or a model.
        images: two images.
        frames: number of images in the result, including both ends.
        steps: number of timesteps in the grid.
        seeds: two seeds, in place of `images`.
        options: grid, guidance and progress, see `EditOptions`.

    Raises:
        UserError: if there are not exactly two images or two seeds, or fewer than two frames.

    Example:
        >>> ddim.interpolate(run, seeds=[3, 7])
        >>> ddim.interpolate(run, ["rose.jpg", "lily.jpg"])
    """
    pipeline = open_pipeline(model)
    if images is not None and seeds is None:
        return _interpolate_images(pipeline, open_pictures(pipeline, images), frames, steps, **options)
    if images is None and seeds is not None:
        return _interpolate_seeds(pipeline, take_seeds(seeds), frames, steps, **options)
    raise UserError("give two images, or seeds=[3, 7]")


def _interpolate_seeds(
    pipeline: Pipeline, seeds: Sequence[int], frames: int, steps: int, **options: Unpack[EditOptions]
) -> Edit:
    if len(seeds) != 2:
        raise UserError(f"an interpolation needs two seeds, got {len(seeds)}")
    work = open_work(pipeline, "an interpolation", steps, real=False, **options)
    with work.precision():
        blank = work.pipeline.model.blank(2).cpu()
        first, second = initial_noise(work.denoise.schedule, Noise(seeds), blank, work.times[0])
        latents = interpolate_latents(first, second, frames)
        work.expect(frames, work.pipeline.recipe.sampler.evaluations(steps))
        x0 = work.sample(work.pipeline.recipe.sampler, latents)
    captions = _name_fractions(frames, _name_seeds(seeds))
    return _finish(work, {"frame": work.leave(x0)}, {"between_seeds": seeds}, captions)


def _interpolate_images(
    pipeline: Pipeline, images: Tensor, frames: int, steps: int, **options: Unpack[EditOptions]
) -> Edit:
    if len(images) != 2:
        raise UserError(f"an interpolation needs two images, got {len(images)}")
    work = open_work(pipeline, "an interpolation of images", steps, inverts=True, **options)
    work.expect(frames, steps)
    work.expect(len(images), 2 * (steps - 1))
    with work.precision():
        x0 = work.pipeline.pixels.enter(images)
        first, second = work.in_batches(lambda x0: invert(work.denoise, x0, work.times).latent, x0)
        latents = interpolate_latents(first, second, frames)
        way = work.sample(DDIM(), latents)
        # The ends are made with `restore`: like `invert`, it leaves out the denoising at the last time.
        ends = latents[[0, -1]]
        way[[0, -1]] = work.in_batches(lambda z: restore(work.denoise, z, work.times), ends)
    captions = _name_fractions(frames, ("first input", "second input"))
    return _finish(work, {"frame": work.leave(way)}, {"between_seeds": []}, captions)


@with_bar
def inpaint_image(
    model: Source,
    image: Picture,
    mask: Picture,
    seeds: Sequence[int] = range(4),
    steps: int = 50,
    *,
    resample: int = 5,
    **options: Unpack[EditOptions],
) -> Edit:
    """Sample new content for a part of an image (RePaint, Lugmayr et al. 2022).

    All other pixels stay bit-identical.

    Args:
        model: a run folder, a pipeline or a model.
        image: the image.
        mask: an image of the same size, white in the part to inpaint and black elsewhere; for transparency,
            see `read_hole`. In a tensor (H, W) of the model's size, black is 0, and white is 1 or the gray
            level 255.
        seeds: one seed for each result.
        steps: number of timesteps in the grid.
        resample: how often each step is done. Noise is added before each repetition, so that the inpainted
            part fits the rest.
        options: grid, guidance and progress, see `EditOptions`.

    Raises:
        UserError: if there are several images, the mask contains no pixel or all pixels, or a number is out
            of range.

    Example:
        >>> ddim.inpaint(run, "rose.jpg", "mask.png", seeds=[3, 7])
    """
    pipeline, seeds = open_pipeline(model), take_seeds(seeds)
    given, image = image, _open_one(pipeline, image, "inpainting")
    hole = open_mask(pipeline, mask, given if isinstance(given, Picture) else given[0])
    check_count("resample", resample)
    if not 0 < hole.mean() < 1:
        raise UserError("the hole must contain pixels to inpaint (1) and pixels to keep (0)")
    work = open_work(pipeline, "inpainting", steps, seeded=True, **options)
    paint = Inpaint(work.pipeline.pixels.enter(image), hole, resample)
    work.expect(len(seeds), paint.evaluations(steps))

    def fill(denoise: Denoiser, blank: Tensor, noise: Noise) -> Iterator[State]:
        x = initial_noise(denoise.schedule, noise, blank, work.times[0])
        return paint(denoise, x, work.times, noise)

    # Kept pixels are taken from the image itself: a conversion to model units and back changes last bits.
    painted = work.for_seeds(fill, seeds) * hole + image * (1 - hole)
    facts = {"resample": int(resample), "seed": seeds[0]}
    rows = {"input": image, "mask": image * (1 - hole) + draw_stripes(image) * hole, "painted": painted}
    return _finish(work, rows, facts, _name_seeds(seeds))


def draw_stripes(image: Tensor) -> Tensor:
    """Return diagonal stripes of white and dark gray (1, 1, H, W), visible on dark and on light images."""
    height, width = image.shape[-2:]
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    wide = max(1, height // 16)
    return torch.where((rows + columns) // wide % 2 == 0, 1.0, 0.25)[None, None]


@with_bar
def vary_image(
    model: Source,
    image: Picture,
    strength: float = 0.5,
    seeds: Sequence[int] = range(8),
    steps: int = 50,
    **options: Unpack[EditOptions],
) -> Edit:
    """Sample variations of an image: add noise, then denoise (SDEdit, Meng et al. 2022).

    Args:
        model: a run folder, a pipeline or a model.
        image: the image.
        strength: time in (0, 1] up to which noise is added; 0.3 changes details, 0.6 shapes, 1 nearly all.
        seeds: one seed for each result.
        steps: number of timesteps in the grid; only timesteps below `strength` are used.
        options: grid, guidance and progress, see `EditOptions`.

    Raises:
        UserError: if there are several images, or the strength or a seed is out of range.

    Example:
        >>> ddim.vary(run, "rose.jpg", strength=0.6)
    """
    check_strength(strength)
    pipeline, seeds = open_pipeline(model), take_seeds(seeds)
    image = _open_one(pipeline, image, "a variation")
    work = open_work(pipeline, "a variation", steps, seeded=True, **options)
    x0 = work.pipeline.pixels.enter(image)
    times = [float(strength), *work.times[work.times < strength].tolist()]
    work.expect(len(seeds), len(times))

    def vary_batch(denoise: Denoiser, blank: Tensor, noise: Noise) -> Iterator[State]:
        return vary(denoise, blank + x0.to(blank), strength, work.times, DDIM(), noise)

    varied = work.for_seeds(vary_batch, seeds)
    facts = {"strength": float(strength), "seed": seeds[0], "times": times}
    return _finish(work, {"input": image, "varied": varied}, facts, _name_seeds(seeds))


def _open_one(pipeline: Pipeline, image: Picture, what: str) -> Tensor:
    opened = open_pictures(pipeline, image)
    if len(opened) != 1:
        raise UserError(f"{what} takes one image, got {len(opened)}")
    return opened


def _finish(work: Work, rows: dict[str, Tensor], facts: dict[str, Any], captions: Sequence[str] = ()) -> Edit:
    more = work.guidance.describe() if work.guidance.on else {}
    if work.label is not None:
        more["label"] = work.label
    return Edit(work.pipeline, work.times, rows, work.calls, {**facts, **more}, captions)


def _name_seeds(seeds: Sequence[int]) -> list[str]:
    return [f"seed {seed}" for seed in seeds]


def _name_fractions(frames: int, ends: Sequence[str]) -> list[str]:
    """Return a caption for each frame: its position between the ends in percent, or the name of the end."""
    between = [f"{100 * k / (frames - 1):.0f} %" for k in range(1, frames - 1)]
    return [ends[0], *between, ends[1]]
