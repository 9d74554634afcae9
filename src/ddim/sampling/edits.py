"""Edits of real images with a run: invert, interpolate, inpaint, vary.

Each edit is a function that takes a run, and images or seeds, and returns an `Edit`. `Edit.save` writes its
folder: a file for each image, strip.png with all images, and record.json.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch
from safetensors.torch import save
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser, Model
from ddim.diffusion.editing import Inpaint, interpolate_latents, invert, restore, vary
from ddim.diffusion.grids import Grid, Uniform, UniformLogSNR
from ddim.diffusion.guidance import Interval
from ddim.diffusion.noise import Noise, check_seeds
from ddim.diffusion.samplers import DDIM, State, initial_noise
from ddim.errors import UserError, check_count
from ddim.files import shorten_paths, write_atomic, write_sealed
from ddim.machine.progress import Progress, ignore_progress, with_bar
from ddim.plots.charts import plot_strip, rasterise, save_figure
from ddim.plots.pictures import check_zoom, render_png, save_film, to_uint8
from ddim.recipe.checks import check_diffusion_model, check_unconditional
from ddim.recipe.codec import override
from ddim.recipe.recipe import Recipe
from ddim.runs.folder import make_output_folder
from ddim.sampling.generate import Walk, Watch, generate, list_seeds
from ddim.sampling.labels import default_label
from ddim.sampling.pictures import Picture, name_file, name_picture, open_mask, open_pictures, write_images
from ddim.sampling.pipeline import LoadedRun, Pipeline, evaluating, open_pipeline
from ddim.sampling.record import describe_times, make_record
from ddim.sampling.sampling_setup import OFF, SamplingSetup, choose_sampling, collect_guidance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORD, STRIP, FILM, LATENTS = "record.json", "strip.png", "film.webp", "latents.safetensors"

NOISY = 0.05
"""The largest sigma at the end of the grid with which inversion of real images is accurate."""

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
        guide_with: the weaker model, such as "@guide"; see `ddim.sampling.sampling_setup.open_guide`.
        progress: called with "network evaluations" of an inversion, or "samples"; see `Progress`.
        watch: called for each state of each micro-batch of samples, with their seeds and the state; frames of
            an interpolation have the seeds 0, 1, ... An inversion has no states: it leads from images to
            noise.
    """

    grid: Grid | str | None
    guidance: float | None
    guidance_interval: Interval | None
    guide_with: str | Path | LoadedRun | None
    progress: Progress
    watch: Watch | None


@dataclass(frozen=True)
class Edit:
    """The result of an edit.

    Attributes:
        command: the name of the edit, such as "vary".
        setup: the model, and the times of the grid.
        rows: images (B, C, H, W) in [0, 1], keyed by row name, such as "input"; the last row is the result.
        calls: number of network evaluations, each on one micro-batch.
        facts: further results, options and the names of the given images, as JSON.
        captions: a caption for each image of the result, such as its seed.
        notes: sentences on how images were resized, and what makes an inversion less accurate.
        latents: the latents (B, C, H, W) of an inversion; None for other edits.
        errors: mean squared errors (B,) between the images of an inversion and those that are reconstructed
            from the latents; None for other edits.
    """

    command: str
    setup: SamplingSetup
    rows: dict[str, Tensor]
    calls: int
    facts: dict[str, Any]
    captions: Sequence[str] = ()
    notes: Sequence[str] = ()
    latents: Tensor | None = None
    errors: Tensor | None = None

    def __repr__(self) -> str:
        """Return one line with the rows of images and the numbers of timesteps and network evaluations."""
        rows = ", ".join(f"{name} {tuple(images.shape)}" for name, images in self.rows.items())
        return f"Edit({rows}; {self.setup.steps} times, {self.calls} network evaluations)"

    @property
    def images(self) -> Tensor:
        """The result: the images of the last row."""
        return list(self.rows.values())[-1]

    def figure(self, zoom: int | None = None) -> "Figure":
        """Return a figure of all images, in named rows; see `plot_strip`."""
        rows = {name: list(to_uint8(images)) for name, images in self.rows.items()}
        heads = [""] * max(map(len, rows.values()))
        captions = {list(rows)[-1]: self.captions} if self.captions else None
        return plot_strip(rows, heads, captions, zoom=zoom)

    def _repr_png_(self) -> bytes:
        return render_png(rasterise(self.figure()))

    def name_files(self, row: str) -> list[str]:
        """Return the names of the files in which `save` writes the images of a row."""
        values, (count, channels) = self.setup.pipeline.values, self.rows[row].shape[:2]
        return [name_file(f"{row}-{k:02d}", channels, values) for k in range(count)]

    def save(self, folder: str | Path | None = None, zoom: int | None = None) -> Path:
        """Write a file for each image, a strip of all images and a record; return the folder.

        An interpolation also gets film.webp, and an inversion latents.safetensors. The record names images in
        the folder by their relative paths.

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
        pipeline = self.setup.pipeline
        for row, images in self.rows.items():
            write_images([out / name for name in self.name_files(row)], images, pipeline.values)
        save_figure(out / STRIP, self.figure(zoom))
        if self.command == "interpolate":
            save_film(out / FILM, list(to_uint8(self.images)), zoom=zoom)
        if self.latents is not None:
            write_atomic(out / LATENTS, save({"latent": self.latents.contiguous()}))
        content = {
            "command": self.command,
            **describe_times(pipeline, self.setup.steps),
            "network_calls": self.calls,
            **{name: _shorten(value, out) for name, value in self.facts.items()},
        }
        write_sealed(out / RECORD, make_record("edit", content, pipeline))
        return out


def _shorten(value: Any, out: Path) -> Any:  # noqa: ANN401 (JSON)
    """Return JSON in which the paths of files in the folder `out` are relative to it."""
    if isinstance(value, list):
        return [_shorten(each, out) for each in value]
    return shorten_paths(value, out) if isinstance(value, str) else value


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
        options: grid and progress, see `EditOptions`.

    Raises:
        UserError: if the network was never trained without a class label, or `options` turns on guidance.

    Example:
        >>> inversion = ddim.invert(run, "rose.jpg")
        >>> inversion.latents, inversion.errors
    """
    setup = _open_edit(model, "an inversion", steps, options, inverts=True)
    x, names = open_pictures(setup.pipeline, images, notes := [])
    latents, restored, calls, residual = _invert(setup, x, options, exact=exact)
    errors = (restored - x).square().mean((1, 2, 3))
    sigma = setup.pipeline.recipe.sampling_schedule(setup.times[-1]).sigma
    if sigma > NOISY:
        notes.append(
            f"at the last of these {steps} times, sigma is still {sigma:.2f}, but a real image has no noise. "
            "So the latent gives back a slightly different image; with more steps, the difference is smaller"
        )
    if residual > 0:
        notes.append(f"some steps did not converge (change per iteration {residual:.2g}): take more steps")
    # If a latent overflowed, its error is NaN. JSON has no NaN, so the record gets null.
    plain = [error if math.isfinite(error) else None for error in errors.tolist()]
    facts = {"exact": exact, "converged": residual == 0, "squared_errors": plain, "images": names}
    shown = (latents / latents.std() / 6 + 0.5).clamp(0, 1)
    rows = {"input": x, "latent": shown, "restored": restored}
    return Edit("invert", setup, rows, calls, facts, notes=notes, latents=latents, errors=errors)


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
    if sorted(0 if ends is None else len(ends) for ends in (images, seeds)) != [0, 2]:
        raise UserError("give two images, or two seeds, such as seeds=[3, 8] (--seeds 3,8)")
    setup = _open_edit(model, "an interpolation", steps, options, inverts=images is not None)
    pipeline, times, sampler = setup.pipeline, setup.times, setup.pipeline.recipe.sampler
    numbers, names, notes, restored, before = check_seeds(seeds or []), [], [], None, 0
    if images is not None:
        x, names = open_pictures(pipeline, images, notes)
        (ends, restored, before, _), sampler = _invert(setup, x, options), DDIM()
    else:
        blank, schedule = pipeline.model.blank(2).cpu(), pipeline.recipe.sampling_schedule
        ends = initial_noise(schedule, Noise(numbers), blank, times[0])
    with pipeline.runtime:
        latents = interpolate_latents(ends[0], ends[1], frames)

    def walk(denoise: Denoiser, _blank: Tensor, places: Sequence[int]) -> Iterator[State]:
        x = pipeline.runtime.images(latents[[*places]])
        return sampler(denoise, x, times, Noise(range(len(x))))

    frame, calls = _sample(setup, walk, range(frames), options)
    if restored is not None:
        # Like the inversion, the restored images leave out the denoising at the last time.
        frame[[0, -1]] = restored
    first, last = ("first input", "second input") if names else _name_seeds(numbers)
    captions = [first, *(f"{100 * k / (frames - 1):.0f} %" for k in range(1, frames - 1)), last]
    facts = {"between_seeds": numbers, "images": names, **_describe_condition(setup)}
    return Edit("interpolate", setup, {"frame": frame}, before + calls, facts, captions, notes)


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
        mask: an image, white in the part to inpaint and black elsewhere, which is cropped and resized like
            the image; for transparency, see `open_mask`.
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
    setup, x, facts, notes = _open_seeded(model, "inpainting", image, seeds, steps, options)
    hole = open_mask(setup.pipeline, mask, notes)
    paint = Inpaint(setup.pipeline.pixels.enter(x), hole, resample)

    def walk(denoise: Denoiser, blank: Tensor, filled: Sequence[int]) -> Iterator[State]:
        noise = Noise(filled)
        start = initial_noise(denoise.schedule, noise, blank, setup.times[0])
        return paint(denoise, start, setup.times, noise)

    samples, calls = _sample(setup, walk, facts["seeds"], options)
    # Kept pixels are taken from the image itself: a conversion to model units and back changes last bits.
    painted = samples * hole + x * (1 - hole)
    rows = {"input": x, "mask": x * (1 - hole) + _draw_stripes(x) * hole, "painted": painted}
    facts |= {"mask": name_picture(mask), "resample": int(resample)}
    return Edit("inpaint", setup, rows, calls, facts, _name_seeds(facts["seeds"]), notes)


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
    setup, x, facts, notes = _open_seeded(model, "a variation", image, seeds, steps, options)
    x0, times = setup.pipeline.pixels.enter(x), setup.times

    def walk(denoise: Denoiser, blank: Tensor, filled: Sequence[int]) -> Iterator[State]:
        return vary(denoise, blank + x0.to(blank), strength, times, DDIM(), Noise(filled))

    varied, calls = _sample(setup, walk, facts["seeds"], options)
    used = [float(strength), *times[times < strength].tolist()]
    facts |= {"strength": float(strength), "times": used}
    rows, captions = {"input": x, "varied": varied}, _name_seeds(facts["seeds"])
    return Edit("vary", setup, rows, calls, facts, captions, notes)


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


def _open_edit(
    source: Source,
    what: str,
    steps: int,
    options: EditOptions,
    *,
    inverts: bool = False,
    seeded: bool = False,
) -> SamplingSetup:
    """Return how an edit samples.

    Args:
        source: a run folder, a pipeline or a model.
        what: the name of the edit in messages, such as "an inversion".
        steps: number of timesteps in the grid.
        options: see `EditOptions`.
        inverts: whether the edit needs latents of real images. Guidance makes these latents inaccurate.
        seeded: whether a real image is edited, and each result has its own seed. Such results have the
            default label of samples. Other edits use no class, because all their images need the same model.
    """
    # A latent needs a step from the image to noise.
    check_count("steps", steps, 2 if inverts else 1)
    given = (options.get("guidance"), options.get("guidance_interval"), options.get("guide_with"))
    guidance = collect_guidance(*given) or OFF
    if inverts and guidance.on:
        raise UserError(f"{what} cannot be guided, because guidance multiplies the errors of latents")
    pipeline, real = open_pipeline(source), inverts or seeded
    check_diffusion_model(pipeline.recipe, f"{what} needs")
    label = default_label(pipeline.recipe) if seeded else None
    if label is None:
        check_unconditional(pipeline.recipe, what)
    grid = options.get("grid") or choose_edit_grid(pipeline.recipe, real=real)
    setup = choose_sampling(pipeline, steps, label, grid=grid, guidance=guidance)
    return replace(setup, consistent=real)


def _open_seeded(
    source: Source,
    what: str,
    image: Picture,
    seeds: Sequence[int],
    steps: int,
    options: EditOptions,
) -> tuple[SamplingSetup, Tensor, dict[str, Any], list[str]]:
    """Return how an edit of one image samples, the image (1, C, H, W), facts of the edit, and notes on it."""
    listed, notes = list_seeds(None, 0, check_seeds(seeds)), []
    setup = _open_edit(source, what, steps, options, seeded=True)
    x, names = open_pictures(setup.pipeline, image, notes)
    if len(x) != 1:
        raise UserError(f"this edit takes one image, got {len(x)}")
    facts = {"image": names[0], "seed": listed[0], "seeds": list(listed)}
    return setup, x, facts | _describe_condition(setup), notes


def _sample(
    setup: SamplingSetup, walk: Walk, seeds: Sequence[int], options: EditOptions
) -> tuple[Tensor, int]:
    """Return one image in [0, 1] for each seed, and the number of network evaluations."""
    progress = options.get("progress", ignore_progress)
    images, nfe = generate(setup, seeds, walk=walk, watch=options.get("watch"), progress=progress)
    return images, nfe * math.ceil(len(seeds) / setup.pipeline.runtime.micro_batch)


@torch.no_grad()
def _invert(
    setup: SamplingSetup, x: Tensor, options: EditOptions, *, exact: bool = False
) -> tuple[Tensor, Tensor, int, float]:
    """Invert images (B, C, H, W) in [0, 1] and restore them, in micro-batches of the run's fixed size.

    The network has the precision of the run, or float32 if `exact`.

    Returns:
        The latents; the images in [0, 1] that are restored from them; the number of network evaluations; and
        the largest change in the last iteration of an exact step that did not converge, else 0.
    """
    pipeline, times, runtime = setup.pipeline, setup.times, setup.pipeline.runtime
    denoise, (counter,) = setup.condition(None)
    parts, progress = x.split(runtime.micro_batch), options.get("progress", ignore_progress)
    # Exact steps take more evaluations. Their number is not known in advance, so the shown total then grows.
    expected = 2 * (setup.steps - 1) * len(parts)
    counter.watch = lambda done: progress("network evaluations", done, max(done, expected))
    latents, restored, residual = [], [], 0.0
    with evaluating(pipeline.model), runtime if exact else runtime.precise():
        for part in parts:
            rest = part[-1:].expand(runtime.micro_batch - len(part), -1, -1, -1)
            x0 = runtime.images(pipeline.pixels.enter(torch.cat([part, rest])))
            latent, change = invert(denoise, x0, times, exact=exact)
            images = restore(denoise, latent.float(), times)
            latents.append(latent[: len(part)].float().cpu())
            restored.append(pipeline.to_images(images[: len(part)]))
            residual = max(residual, change)
    return torch.cat(latents), torch.cat(restored), counter.evaluations, residual


def _draw_stripes(image: Tensor) -> Tensor:
    """Return diagonal stripes of white and dark gray (1, 1, H, W), visible on dark and on light images."""
    height, width = image.shape[-2:]
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    wide = max(1, height // 16)
    return torch.where((rows + columns) // wide % 2 == 0, 1.0, 0.25)[None, None]


def _name_seeds(seeds: Sequence[int]) -> list[str]:
    return [f"seed {seed}" for seed in seeds]


def _describe_condition(setup: SamplingSetup) -> dict[str, Any]:
    """Return the guidance and the label of an edit, as JSON; entries that do nothing are left out."""
    label = {} if setup.label is None else {"label": setup.label}
    return label | (setup.guidance.describe() if setup.guidance.on else {})
