"""Edits of real images with a run: invert, interpolate, inpaint, vary.

Each edit is a function that takes a run, and images or seeds, and returns an `Edit`. `Edit.save` writes its
folder: a file for each image, strip.png with all images, and record.json.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from safetensors.torch import save
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.editing import Inpaint, interpolate_latents, vary
from ddim.diffusion.noise import Noise, check_seeds
from ddim.diffusion.samplers import DDIM, State, initial_noise
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
    list_pictures,
    name_file,
    name_picture,
    open_mask,
    open_pictures,
    write_images,
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
        count, channels = self.rows[row].shape[:2]
        return [name_file(f"{row}-{k:02d}", channels, self.pipeline.values) for k in range(count)]

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
            write_images([out / name for name in self.name_files(row)], images, self.pipeline.values)
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
    setup = open_edit(model, "an inversion", steps, options, inverts=True)
    pictures = list_pictures(images)
    x = open_pictures(setup.pipeline, pictures, setup.notes)
    # Exact steps take more evaluations. Their number is not known in advance, so the shown total then grows.
    setup.expect(len(x), 2 * (steps - 1))
    latents, residual = setup.find_latents(x, exact=exact)
    restored = setup.restore(latents, exact=exact)
    errors = (restored - x).square().mean((1, 2, 3))
    sigma = setup.pipeline.recipe.sampling_schedule(setup.times[-1]).sigma
    if sigma > NOISY:
        setup.notes.append(
            f"at the last of these {steps} times, sigma is still {sigma:.2f}, but a real image has no noise. "
            "So the latent gives back a slightly different image; with more steps, the difference is smaller"
        )
    if residual > 0:
        setup.notes.append(
            f"some steps did not converge (change per iteration {residual:.2g}): take more steps"
        )
    # If a latent overflowed, its error is NaN. JSON has no NaN, so the record gets null.
    plain = [error if math.isfinite(error) else None for error in errors.tolist()]
    facts = {"exact": exact, "converged": residual == 0, "squared_errors": plain}
    shown = (latents / latents.std() / 6 + 0.5).clamp(0, 1)
    rows = {"input": x, "latent": shown, "restored": restored}
    given = {"images": pictures}
    return _finish("invert", setup, rows, facts, given, latents=latents, errors=errors)


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
    numbers = [] if seeds is None else check_seeds(seeds)
    pictures = [] if images is None else list_pictures(images)
    if sorted([len(numbers), len(pictures)]) != [0, 2]:
        raise UserError("give two images, or two seeds, such as seeds=[3, 8] (--seeds 3,8)")
    what = "an interpolation of images" if pictures else "an interpolation"
    setup = open_edit(model, what, steps, options, inverts=bool(pictures))
    sampler = DDIM() if pictures else setup.pipeline.recipe.sampler
    setup.expect(frames, sampler.evaluations(steps))
    if pictures:
        setup.expect(2, 2 * (steps - 1))
        ends, _ = setup.find_latents(open_pictures(setup.pipeline, pictures, setup.notes))
    else:
        blank = setup.pipeline.model.blank(2).cpu()
        ends = initial_noise(setup.denoise.schedule, Noise(numbers), blank, setup.times[0])
    with setup.pipeline.runtime:
        latents = interpolate_latents(ends[0], ends[1], frames)

    def walk(denoise: Denoiser, _blank: Tensor, places: Sequence[int]) -> Iterator[State]:
        x = setup.pipeline.runtime.images(latents[[*places]])
        return sampler(denoise, x, setup.times, Noise(range(len(x))))

    frame = setup.sample(walk, range(frames))
    if pictures:
        # Like the inversion, `restore` leaves out the denoising at the last time.
        frame[[0, -1]] = setup.restore(ends)
    first, last = ("first input", "second input") if pictures else _name_seeds(numbers)
    captions = [first, *(f"{100 * k / (frames - 1):.0f} %" for k in range(1, frames - 1)), last]
    facts = {"between_seeds": numbers}
    given = {"images": pictures}
    return _finish("interpolate", setup, {"frame": frame}, facts, given, captions)


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
    seeds = list_seeds(None, 0, check_seeds(seeds))
    setup = open_edit(model, "inpainting", steps, options, seeded=True)
    x = _open_one(setup, image)
    hole = open_mask(setup.pipeline, mask, image, setup.notes)
    paint = Inpaint(setup.pipeline.pixels.enter(x), hole, resample)
    setup.expect(len(seeds), paint.evaluations(steps))

    def walk(denoise: Denoiser, blank: Tensor, filled: Sequence[int]) -> Iterator[State]:
        noise = Noise(filled)
        start = initial_noise(denoise.schedule, noise, blank, setup.times[0])
        return paint(denoise, start, setup.times, noise)

    # Kept pixels are taken from the image itself: a conversion to model units and back changes last bits.
    painted = setup.sample(walk, seeds) * hole + x * (1 - hole)
    masked = x * (1 - hole) + draw_stripes(x) * hole
    rows = {"input": x, "mask": masked, "painted": painted}
    facts = {"resample": int(resample), "seed": seeds[0], "seeds": list(seeds)}
    return _finish("inpaint", setup, rows, facts, {"image": image, "mask": mask}, _name_seeds(seeds))


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
    seeds = list_seeds(None, 0, check_seeds(seeds))
    setup = open_edit(model, "a variation", steps, options, seeded=True)
    x = _open_one(setup, image)
    x0 = setup.pipeline.pixels.enter(x)
    times = setup.times
    used = [float(strength), *times[times < strength].tolist()]
    setup.expect(len(seeds), len(used))

    def walk(denoise: Denoiser, blank: Tensor, filled: Sequence[int]) -> Iterator[State]:
        return vary(denoise, blank + x0.to(blank), strength, times, DDIM(), Noise(filled))

    rows = {"input": x, "varied": setup.sample(walk, seeds)}
    facts = {"strength": float(strength), "seed": seeds[0], "seeds": list(seeds), "times": used}
    return _finish("vary", setup, rows, facts, {"image": image}, _name_seeds(seeds))


def _open_one(setup: EditSetup, image: Picture | Sequence[Picture]) -> Tensor:
    """Return an image as a tensor (1, C, H, W)."""
    x = open_pictures(setup.pipeline, image, setup.notes)
    if len(x) != 1:
        raise UserError(f"this edit takes one image, got {len(x)}")
    return x


def _name_seeds(seeds: Sequence[int]) -> list[str]:
    return [f"seed {seed}" for seed in seeds]


def _finish(
    command: str,
    setup: EditSetup,
    rows: dict[str, Tensor],
    facts: dict[str, Any],
    given: dict[str, Any],
    captions: Sequence[str] = (),
    **results: Tensor,
) -> Edit:
    """Return the result of an edit, with its guidance and its label among its facts."""
    facts |= setup.guidance.describe() if setup.guidance.on else {}
    facts |= {} if setup.label is None else {"label": setup.label}
    more = {"facts": facts, "given": given, "captions": captions, "notes": setup.notes}
    return Edit(command, setup.pipeline, setup.times, rows, setup.calls, **more, **results)
