"""Edits of real images with a run: invert, interpolate, inpaint, vary.

Each edit is a function that takes a run, and images or seeds, and returns an `Edit`. `Edit.save` writes its
folder: a file for each image, strip.png with all images, and record.json.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from safetensors.torch import save
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.editing import Inpaint, check_strength, interpolate_latents, invert, restore, vary
from ddim.diffusion.noise import Noise, check_seeds
from ddim.diffusion.samplers import DDIM, Sampler, State, initial_noise
from ddim.errors import UserError, check_count
from ddim.files import write_atomic, write_sealed
from ddim.machine.progress import with_bar
from ddim.plots.charts import plot_strip, rasterise, save_figure
from ddim.plots.pictures import check_zoom, render_png, save_film, to_uint8
from ddim.runs.folder import make_output_folder
from ddim.sampling.edit_setup import EditOptions, EditSetup, Source, open_edit
from ddim.sampling.generate import list_seeds
from ddim.sampling.pictures import (
    Picture,
    name_picture,
    open_images,
    open_mask,
    sample_suffix,
    to_pixels,
    write_image,
)
from ddim.sampling.pipeline import Pipeline
from ddim.sampling.record import describe_times, make_record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORD, STRIP, FILM, LATENTS = "record.json", "strip.png", "film.webp", "latents.safetensors"

NOISY = 0.05
"""The largest sigma at the end of the grid with which inversion of real images is accurate."""


@dataclass(frozen=True)
class Edit:
    """The result of an edit.

    Attributes:
        command: the name of the edit, such as "vary".
        pipeline: the model that was used.
        times: the times (timesteps) (N,) of the grid.
        rows: images (B, C, H, W) in [0, 1], keyed by row name, such as "input"; the last row is the result.
        calls: number of network evaluations, each on one micro-batch.
        facts: further results and options, as JSON.
        given: the images that the user gave, keyed by their names in the record.
        captions: a caption for each image of the result, such as its seed.
        notes: sentences on how images were resized, and what makes an inversion less accurate.
        latents: the latents (B, C, H, W) of an inversion; None for other edits.
        errors: mean squared errors (B,) between the images of an inversion and those that are reconstructed
            from the latents; None for other edits.
    """

    command: str
    pipeline: Pipeline
    times: Tensor
    rows: dict[str, Tensor]
    calls: int
    facts: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    captions: Sequence[str] = ()
    notes: Sequence[str] = ()
    latents: Tensor | None = None
    errors: Tensor | None = None

    def __repr__(self) -> str:
        """Return one line with the rows of images and the numbers of timesteps and network evaluations."""
        rows = ", ".join(f"{name} {tuple(images.shape)}" for name, images in self.rows.items())
        return f"Edit({rows}; {len(self.times)} times, {self.calls} network evaluations)"

    @property
    def images(self) -> Tensor:
        """The result: the images of the last row."""
        return list(self.rows.values())[-1]

    def figure(self, zoom: int | None = None) -> Figure:
        """Return a figure of all images, in named rows; see `plot_strip`."""
        rows = {name: list(to_uint8(images)) for name, images in self.rows.items()}
        heads = [""] * max(map(len, rows.values()))
        captions = {list(rows)[-1]: self.captions} if self.captions else None
        return plot_strip(rows, heads, captions, zoom=zoom)

    def _repr_png_(self) -> bytes:
        return render_png(rasterise(self.figure()))

    def name_files(self, row: str) -> list[str]:
        """Return the names of the files in which `save` writes the images of a row."""
        suffix = sample_suffix(self.pipeline.values, self.rows[row].shape[1])
        return [f"{row}-{k:02d}{suffix}" for k in range(len(self.rows[row]))]

    def save(self, folder: str | Path | None = None, zoom: int | None = None) -> Path:
        """Write a file for each image, a strip of all images and a record; return the folder.

        An interpolation also gets film.webp, and an inversion latents.safetensors. The record names images in
        the folder by their paths relative to the folder, and other files by the given paths.

        Args:
            folder: the output folder, by default a new folder edits/COMMAND-N.
            zoom: the integer factor by which the strip and the film are enlarged; see `plot_strip`.

        Raises:
            UserError: if the folder holds the record of another result.

        Example:
            >>> ddim.vary(run, "rose.jpg", seeds=range(4)).save("roses")
        """
        check_zoom(zoom)
        if folder is not None and (Path(folder) / RECORD).exists():
            raise UserError(f"folder {folder} holds results already; give a new folder")
        out = make_output_folder(None if folder is None else Path(folder), "edits", self.command)
        for row, images in self.rows.items():
            pixels = to_pixels(images, self.pipeline.values)
            for name, each in zip(self.name_files(row), pixels, strict=True):
                write_image(out / name, each)
        save_figure(out / STRIP, self.figure(zoom))
        if self.command == "interpolate":
            save_film(out / FILM, list(to_uint8(self.images)), zoom=zoom)
        if self.latents is not None:
            write_atomic(out / LATENTS, save({"latent": self.latents.contiguous()}))
        content = {
            "command": self.command,
            **describe_times(self.pipeline, len(self.times)),
            "network_calls": self.calls,
            **self.facts,
            **{name: _name_given(value, out) for name, value in self.given.items()},
        }
        write_sealed(out / RECORD, make_record("edit", content, self.pipeline))
        return out


def _name_given(value: Any, out: Path) -> Any:  # noqa: ANN401 (an image, or several)
    """Return the names of images that a user gave; those in the folder `out` are relative to it."""
    if isinstance(value, list | tuple):
        return [_name_given(each, out) for each in value]
    if isinstance(value, str | Path) and Path(value).is_relative_to(out):
        return Path(value).relative_to(out).as_posix()
    return name_picture(value)


@with_bar
def invert_images(
    model: Source,
    images: Picture | Sequence[Picture],
    steps: int = 50,
    *,
    exact: bool = False,
    **options: Unpack[EditOptions],
) -> Edit:
    """Return the latents of images, and the images that are reconstructed from these latents.

    The latent of an image is the noise from which DDIM samples this image.

    Args:
        model: a run folder, a pipeline or a model.
        images: one image or several: files, images of Pillow, arrays or tensors.
        steps: number of timesteps in the grid.
        exact: whether each step is solved by iteration, in float32, instead of by extrapolation.
        options: grid, guidance and progress, see `EditOptions`.

    Raises:
        UserError: if the network was never trained without a class label, the grid cannot have `steps`
            timesteps, or `options` turns on guidance.

    Example:
        >>> inversion = ddim.invert(run, "rose.jpg")
        >>> inversion.latents, inversion.errors
    """
    setup, notes = open_edit(model, "an inversion", steps, options, inverts=True), []
    x = open_images(setup.pipeline, images, notes)
    # Exact steps take more evaluations. Their number is not known in advance, so the shown total then grows.
    setup.expect(len(x), 2 * (steps - 1))
    residuals = [0.0]

    def find_latents(x0: Tensor) -> Tensor:
        result = invert(setup.denoise, x0, setup.times, exact=exact)
        residuals.append(0.0 if result.converged else result.residual)
        return result.latent

    def find_images(latents: Tensor) -> Tensor:
        return restore(setup.denoise, latents, setup.times)

    latents = setup.in_batches(find_latents, setup.pipeline.pixels.enter(x), exact=exact).float()
    restored = setup.leave(setup.in_batches(find_images, latents, exact=exact))
    errors, residual = (restored - x).square().mean((1, 2, 3)), max(residuals)
    if (sigma := setup.pipeline.recipe.sampling_schedule(setup.times[-1]).sigma) > NOISY:
        notes.append(
            f"at the last of these {steps} times, sigma is still {sigma:.2f}, but a real image has no noise. "
            "So the latent gives back a slightly different image; with more steps, the difference is smaller"
        )
    if residual > 0:
        notes.append(f"some steps did not converge (change per iteration {residual:.2g}): take more steps")
    facts = {
        "exact": exact,
        "converged": residual == 0,
        # If a latent overflowed, its error is NaN. JSON has no NaN, so the record gets null.
        "squared_errors": [error if math.isfinite(error) else None for error in errors.tolist()],
    }
    shown = (latents / latents.std() / 6 + 0.5).clamp(0, 1)
    given = {"images": images if isinstance(images, list | tuple) else [images]}
    edit = _finish("invert", setup, {"input": x, "latent": shown, "restored": restored}, facts, given, notes)
    return replace(edit, latents=latents, errors=errors)


@with_bar
def interpolate(
    model: Source,
    images: Sequence[Picture] | Tensor | None = None,
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
    listed = None if seeds is None else check_seeds(seeds)
    if images is not None and listed is None and len(images) == 2:
        return _interpolate_images(model, images, frames, steps, options)
    if listed is not None and images is None and len(listed) == 2:
        return _interpolate_seeds(model, listed, frames, steps, options)
    raise UserError("give two images, or two seeds, such as seeds=[3, 8] (--seeds 3,8)")


def _interpolate_seeds(
    model: Source, seeds: list[int], frames: int, steps: int, options: EditOptions
) -> Edit:
    setup = open_edit(model, "an interpolation", steps, options, real=False)
    start = setup.times[0]
    with setup.pipeline.runtime:
        ends = initial_noise(setup.denoise.schedule, Noise(seeds), setup.pipeline.model.blank(2).cpu(), start)
    rows = {"frame": _sample_between(setup, setup.pipeline.recipe.sampler, ends, frames)}
    captions = _name_fractions(frames, *_name_seeds(seeds))
    return _finish("interpolate", setup, rows, {"between_seeds": seeds}, {"images": []}, [], captions)


def _interpolate_images(
    model: Source, images: Sequence[Picture] | Tensor, frames: int, steps: int, options: EditOptions
) -> Edit:
    setup, notes = open_edit(model, "an interpolation of images", steps, options, inverts=True), []
    x0 = setup.pipeline.pixels.enter(open_images(setup.pipeline, images, notes))
    setup.expect(2, 2 * (steps - 1))
    latents = setup.in_batches(lambda x0: invert(setup.denoise, x0, setup.times).latent, x0)
    frame = _sample_between(setup, DDIM(), latents, frames)
    # The ends are made with `restore`: like `invert`, it leaves out the denoising at the last time.
    ends = setup.in_batches(lambda z: restore(setup.denoise, z, setup.times), latents)
    frame[[0, -1]] = setup.leave(ends)
    captions, given = _name_fractions(frames, "first input", "second input"), {"images": list(images)}
    return _finish("interpolate", setup, {"frame": frame}, {"between_seeds": []}, given, notes, captions)


def _sample_between(setup: EditSetup, sampler: Sampler, ends: Tensor, frames: int) -> Tensor:
    """Return the samples (frames, C, H, W) of latents between two latents, which are included."""
    with setup.pipeline.runtime:
        latents = interpolate_latents(ends[0], ends[1], frames)
    setup.expect(frames, sampler.evaluations(len(setup.times)))

    def walk(denoise: Denoiser, _blank: Tensor, numbers: Sequence[int]) -> Iterator[State]:
        x = setup.pipeline.runtime.images(latents[[*numbers]])
        return sampler(denoise, x, setup.times, Noise(range(len(x))))

    return setup.sample(walk, range(frames))


def _name_fractions(frames: int, first: str, last: str) -> list[str]:
    """Return a caption for each frame: its position between the ends in percent, or the name of the end."""
    return [first, *(f"{100 * k / (frames - 1):.0f} %" for k in range(1, frames - 1)), last]


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
        image: the image: a file, an image of Pillow, an array or a tensor.
        mask: an image, white in the part to inpaint and black elsewhere, with the proportions of the image or
            of the model's images; for transparency, see `open_mask`.
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
    check_count("resample", resample)
    seeds, notes = list_seeds(None, 0, check_seeds(seeds)), []
    setup = open_edit(model, "inpainting", steps, options, seeded=True)
    x = _open_one(setup, image, notes)
    hole = open_mask(setup.pipeline, mask, image, notes)
    paint = Inpaint(setup.pipeline.pixels.enter(x), hole, resample)
    setup.expect(len(seeds), paint.evaluations(steps))

    def walk(denoise: Denoiser, blank: Tensor, filled: Sequence[int]) -> Iterator[State]:
        noise = Noise(filled)
        return paint(
            denoise, initial_noise(denoise.schedule, noise, blank, setup.times[0]), setup.times, noise
        )

    # Kept pixels are taken from the image itself: a conversion to model units and back changes last bits.
    painted = setup.sample(walk, seeds) * hole + x * (1 - hole)
    rows = {"input": x, "mask": x * (1 - hole) + draw_stripes(x) * hole, "painted": painted}
    facts, given = {"resample": int(resample), **_list_seeds(seeds)}, {"image": image, "mask": mask}
    return _finish("inpaint", setup, rows, facts, given, notes, _name_seeds(seeds))


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
        image: the image: a file, an image of Pillow, an array or a tensor.
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
    seeds, notes = list_seeds(None, 0, check_seeds(seeds)), []
    setup = open_edit(model, "a variation", steps, options, seeded=True)
    x = _open_one(setup, image, notes)
    x0, times = setup.pipeline.pixels.enter(x), setup.times
    used = [float(strength), *times[times < strength].tolist()]
    setup.expect(len(seeds), len(used))

    def walk(denoise: Denoiser, blank: Tensor, filled: Sequence[int]) -> Iterator[State]:
        return vary(denoise, blank + x0.to(blank), strength, times, DDIM(), Noise(filled))

    rows = {"input": x, "varied": setup.sample(walk, seeds)}
    facts = {"strength": float(strength), **_list_seeds(seeds), "times": used}
    return _finish("vary", setup, rows, facts, {"image": image}, notes, _name_seeds(seeds))


def _open_one(setup: EditSetup, image: Picture | Sequence[Picture], notes: list[str]) -> Tensor:
    """Return an image as a tensor (1, C, H, W)."""
    opened = open_images(setup.pipeline, image, notes)
    if len(opened) != 1:
        raise UserError(f"this edit takes one image, got {len(opened)}")
    return opened


def _list_seeds(seeds: Sequence[int]) -> dict[str, Any]:
    return {"seed": seeds[0], "seeds": list(seeds)}


def _name_seeds(seeds: Sequence[int]) -> list[str]:
    return [f"seed {seed}" for seed in seeds]


def _finish(
    command: str,
    setup: EditSetup,
    rows: dict[str, Tensor],
    facts: dict[str, Any],
    given: dict[str, Any],
    notes: Sequence[str],
    captions: Sequence[str] = (),
) -> Edit:
    """Return the result of an edit, with its guidance and its label among its facts."""
    facts |= setup.guidance.describe() if setup.guidance.on else {}
    facts |= {} if setup.label is None else {"label": setup.label}
    return Edit(command, setup.pipeline, setup.times, rows, setup.calls, facts, given, captions, notes)
