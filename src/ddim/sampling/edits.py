"""Edits of real images with a run: invert, interpolate, inpaint, vary.

Each edit is a function that takes a run, and images or seeds, and returns an `Edit`. `Edit.save` writes its
folder, as the commands do: a file for each image, strip.png with all images, and record.json.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch
from safetensors.torch import save
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.editing import (
    BlendedNoise,
    Inpaint,
    find_latents,
    interpolate_latents,
    restore,
    sample_from_image,
)
from ddim.diffusion.guidance import Interval
from ddim.diffusion.noise import Noise, check_seeds
from ddim.diffusion.samplers import DDIM, State, initial_noise
from ddim.errors import UserError, check_count, format_count
from ddim.files import hash_json, read_sealed, shorten_paths, write_atomic, write_sealed
from ddim.machine.progress import Progress, ignore_progress, with_bar
from ddim.plots.charts import plot_strip, rasterise, save_figure
from ddim.plots.pictures import render_png, save_film, to_uint8
from ddim.runs.folder import check_unused, make_output_folder
from ddim.sampling.generate import Walk, Watch, generate, list_seeds
from ddim.sampling.pictures import Picture, name_file, name_picture, open_mask, open_pictures, write_images
from ddim.sampling.pipeline import LoadedRun, Source, evaluating
from ddim.sampling.record import describe_times, make_record
from ddim.sampling.sampling_setup import SamplingSetup, open_edit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORD, STRIP, FILM, LATENTS = "record.json", "strip.png", "film.webp", "latents.safetensors"

NOISY = 0.05
"""The largest sigma at the end of the grid with which inversion of real images is accurate."""


class EditOptions(TypedDict, total=False):
    """The options of every edit.

    Attributes:
        guidance: guidance scale (default: 1, off). Only a weaker model can guide an edit, unless the run has
            clusters or vectors; an inversion takes no guidance.
        guide_with: the weaker model, such as @guide (early weights of the run), or runs/small-1@raw.
        guidance_interval: guide only at these log-SNRs, such as -2,5; an end may be left out.
        fields: the sampling times, such as --grid uniform or --grid.end 5 (default: the run's for samples,
            for real images uniform_log_snr with end 6, or uniform if the schedule ends at a lower log-SNR).
        progress: called with "network evaluations" of an inversion, or "samples"; see `Progress`.
        watch: called with the seeds and each state of a micro-batch; frames of an interpolation have seeds
            0, 1, ..., and an inversion has no states.
    """

    guidance: float | None
    guide_with: str | Path | LoadedRun | None
    guidance_interval: Interval | None
    fields: Mapping[str, Any] | None
    progress: Progress
    watch: Watch | None


@dataclass
class Edit:
    """The result of an edit.

    Attributes:
        command: the name of the edit, such as "vary".
        setup: the model, and the times of the grid.
        rows: images (B, C, H, W) in [0, 1], keyed by row name, such as "input"; the last row is the result.
        calls: number of network evaluations, each on one micro-batch.
        facts: further results, options and the names of the given images, as JSON.
        captions: a caption for each image of the result, by default its seed.
        notes: sentences on how images were resized, and what makes an inversion less accurate.
        latents: the latents (B, C, H, W) of an inversion; None for other edits.
        errors: mean squared errors (B,) between the images of an inversion and those that are reconstructed
            from the latents; None for other edits.
        folder: the folder that `save` has written; None before.
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
    folder: Path | None = None

    def __post_init__(self) -> None:
        self.captions = self.captions or [f"seed {seed}" for seed in self.facts.get("seeds", ())]

    def __repr__(self) -> str:
        """Return one line with the rows of images and the numbers of timesteps and network evaluations."""
        rows = ", ".join(f"{name} {tuple(images.shape)}" for name, images in self.rows.items())
        return f"Edit({rows}; {self.setup.steps} times, {self.calls} network evaluations)"

    def __str__(self) -> str:
        """Return the error of each inverted image, and a line with the number of images and their strip."""
        errors = [] if self.errors is None else zip(self.facts["images"], self.errors.tolist(), strict=True)
        lines = [f"{name}: mean squared error of the round trip {error:.3g}" for name, error in errors]
        where = "" if self.folder is None else f": {self.folder / STRIP}"
        return "\n".join([*lines, f"{format_count(len(self.images), 'image')}{where}"])

    @property
    def details(self) -> str:
        """The text of the result with its notes."""
        return "\n".join([str(self), *self.notes])

    def to_json(self) -> dict[str, Any]:
        """Return the folder, the notes, and the record of the edit as plain values."""
        setup, folder = self.setup, self.folder
        content = {
            "command": self.command,
            **describe_times(setup.pipeline, setup.steps),
            "network_calls": self.calls,
            **{name: _shorten(value, folder) for name, value in self.facts.items()},
            **({} if setup.label is None else {"label": setup.label}),
            **(setup.guidance.describe() if setup.guidance.on else {}),
        }
        record = make_record("edit", content, setup.pipeline)
        return {"folder": folder, "notes": _shorten([*self.notes], folder), **record}

    @property
    def images(self) -> Tensor:
        """The result: the images of the last row."""
        return list(self.rows.values())[-1]

    def figure(self) -> "Figure":
        """Return a figure of all images, in named rows; see `plot_strip`."""
        rows = {name: list(to_uint8(images)) for name, images in self.rows.items()}
        heads = [""] * max(map(len, rows.values()))
        captions = {list(rows)[-1]: self.captions} if self.captions else None
        return plot_strip(rows, heads, captions)

    def _repr_png_(self) -> bytes:
        return render_png(rasterise(self.figure()))

    def name_files(self, row: str) -> list[str]:
        """Return the names of the files in which `save` writes the images of a row."""
        values, (count, channels) = self.setup.pipeline.values, self.rows[row].shape[:2]
        return [name_file(f"{row}-{k:02d}", channels, values) for k in range(count)]

    def save(self, out: str | Path | None = None) -> Path:
        """Write the files of the edit, and return their folder; the same edit may be there already.

        The record names images in the folder by their relative paths.

        Args:
            out: the output folder (default: a new edits/COMMAND-N).

        Raises:
            UserError: if the folder holds another result, or files without a record.
        """
        if out is not None:
            check_edit_folder(Path(out))
        folder = make_output_folder(out, "edits", self.command)
        record = replace(self, folder=folder).to_json()
        del record["folder"]
        earlier = read_sealed(folder / RECORD) if (folder / RECORD).exists() else record
        if hash_json({**earlier, "time": ""}) != hash_json({**record, "time": ""}):
            raise UserError(f"folder {folder} holds another result; give a new folder")
        self.folder = folder
        for row, images in self.rows.items():
            write_images([folder / name for name in self.name_files(row)], images, self.setup.pipeline.values)
        save_figure(folder / STRIP, self.figure())
        if self.command == "interpolate":
            save_film(folder / FILM, list(to_uint8(self.images)))
        if self.latents is not None:
            write_atomic(folder / LATENTS, save({"latent": self.latents.contiguous()}))
        write_sealed(folder / RECORD, record)
        return folder


def check_edit_folder(out: Path) -> None:
    """Check that a folder for an edit is new, has only folders in it, or holds the record of an edit.

    Raises:
        UserError: if it holds other files.
    """
    if not (out / RECORD).exists():
        check_unused(out, with_folders=True)


def _shorten(value: Any, out: Path | None) -> Any:  # noqa: ANN401 (JSON)
    """Return JSON in which the paths of files in the folder `out`, if it is known, are relative to it."""
    if isinstance(value, list):
        return [_shorten(each, out) for each in value]
    return shorten_paths(value, out) if out and isinstance(value, str) else value


@with_bar
def invert(
    run: Source,
    *images: Picture | Sequence[Picture],
    steps: int = 50,
    exact: bool = False,
    **options: Unpack[EditOptions],
) -> Edit:
    """Turn real images into latents and back.

    The latent of an image is the noise from which DDIM samples this image. The folder gets the images at the
    size of the run, the images restored from their latents, strip.png, latents.safetensors and record.json.

    Args:
        run: a run folder, a pipeline or a model.
        images: one image or several: files, images of Pillow, arrays or tensors.
        steps: sampling steps.
        exact: solve each step by iteration, in float32, for a smaller error; take more steps if it does not
            converge.
        options: see `EditOptions`.

    Returns:
        The latents, the restored images, and the errors of the round trip.

    Raises:
        UserError: if the network was never trained without a class label, or `options` turns on guidance.

    Example:
        >>> ddim.invert(run, "rose.jpg").latents

    Commands:
        ddim invert runs/photos-fast-1 flower.jpg --steps 100
        ddim invert runs/photos-fast-1 rose.jpg lily.jpg --steps 20 --exact
    """
    setup = open_edit(run, "an inversion", steps, options, invert=True)
    x, names = open_pictures(setup.pipeline, images, notes := [])
    latents, restored, calls, residual = _invert(setup, x, options, exact=exact)
    errors = (restored - x).square().mean((1, 2, 3))
    sigma = setup.pipeline.recipe.sampling_schedule(setup.times[-1]).sigma
    if sigma > NOISY:
        notes.append(
            f"at the last of {steps} times, sigma is still {sigma:.2f}: more steps invert more exactly"
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
    run: Source,
    *images: Picture | Sequence[Picture],
    seeds: Sequence[int] | None = None,
    frames: int = 9,
    steps: int = 50,
    **options: Unpack[EditOptions],
) -> Edit:
    """Blend two samples or two real images through their latents.

    The latents of both ends are interpolated along the sphere on which noise lies. Real images are inverted
    first, and the first and the last frame are restored from their latents; only samples of `seeds` can be
    guided. The folder gets the frames, strip.png, film.webp and record.json.

    Args:
        run: a run folder, a pipeline or a model.
        images: two images.
        seeds: two seeds in place of images, such as 3,8.
        frames: number of frames, both ends included.
        steps: sampling steps.
        options: see `EditOptions`.

    Returns:
        The frames.

    Raises:
        UserError: if there are not exactly two images or two seeds, or fewer than two frames.

    Commands:
        ddim interpolate runs/photos-fast-1 --seeds 3,8
        ddim interpolate runs/photos-fast-1 rose.jpg lily.jpg --frames 16
    """
    check_count("frames", frames, 2)
    setup = open_edit(run, "an interpolation", steps, options, invert=seeds is None)
    pipeline, times, sampler = setup.pipeline, setup.times, setup.pipeline.recipe.sampler
    numbers, notes, restored, before = check_seeds([] if seeds is None else seeds), [], None, 0
    x, names = open_pictures(pipeline, images, notes) if images else (torch.empty(0, device="cpu"), [])
    if sorted([len(names), len(numbers)]) != [0, 2]:
        raise UserError("give two images, or two seeds, such as seeds=[3, 8] (--seeds 3,8)")
    shares, latents = [k / (frames - 1) for k in range(frames)], torch.empty(0, device="cpu")
    if names:
        ends, restored, before, _ = _invert(setup, x, options)
        with pipeline.runtime:
            latents = interpolate_latents(ends[0], ends[1], shares)

    def walk(denoise: Denoiser, blank: Tensor, places: Sequence[int]) -> Iterator[State]:
        if names:
            return DDIM()(denoise, pipeline.runtime.images(latents[[*places]]), times, Noise([]))
        noise = BlendedNoise(numbers, [shares[place] for place in places])
        return sampler(denoise, initial_noise(denoise.schedule, noise, blank, times[0]), times, noise)

    frame, calls = _sample(setup, walk, range(frames), options)
    if restored is not None:
        # Like the inversion, the restored images leave out the denoising at the last time.
        frame[[0, -1]] = restored
    first, last = ("first input", "second input") if names else (f"seed {seed}" for seed in numbers)
    captions = [first, *(f"{100 * k / (frames - 1):.0f} %" for k in range(1, frames - 1)), last]
    facts = {"between_seeds": numbers, "images": names}
    return Edit("interpolate", setup, {"frame": frame}, before + calls, facts, captions, notes)


@with_bar
def inpaint(  # noqa: PLR0913 (the choices of a notebook)
    run: Source,
    image: Picture,
    seeds: Sequence[int] | None = None,
    steps: int = 50,
    *,
    mask: Picture,
    resample: int = 5,
    n: int = 4,
    seed: int = 0,
    **options: Unpack[EditOptions],
) -> Edit:
    """Generate new content for the masked part of an image.

    All other pixels stay bit-identical. The method is RePaint (Lugmayr et al. 2022). The folder gets the
    images, strip.png and record.json.

    Args:
        run: a run folder, a pipeline or a model.
        image: the image: a file, an image of Pillow, an array or a tensor.
        seeds: a list of seeds in place of `n` and `seed`.
        steps: sampling steps.
        mask: an image with the proportions of the image or of the run's images, white in the part that is
            generated; or the image with an erased (transparent) part, or a layer of white strokes.
        resample: how often each step is done. Noise is added in between, so that both parts agree.
        n: number of images.
        seed: the results have the seeds S, S+1, ...
        options: see `EditOptions`.

    Returns:
        The image with its new parts, one for each seed.

    Raises:
        UserError: if there are several images, or the mask contains no pixel or all pixels.

    Commands:
        ddim inpaint runs/photos-fast-1 rose.jpg --mask mask.png -n 4
    """
    check_count("resample", resample)
    listed = list_seeds(n, seed, None) if seeds is None else seeds
    setup, x, facts, notes = _open_seeded(run, "inpainting", image, listed, steps, options)
    hole = open_mask(setup.pipeline, mask, notes)
    paint = Inpaint(setup.pipeline.pixels.enter(x), hole, resample)

    def walk(denoise: Denoiser, blank: Tensor, filled: Sequence[int]) -> Iterator[State]:
        noise = Noise(filled)
        start = initial_noise(denoise.schedule, noise, blank, setup.times[0])
        return paint(denoise, start, setup.times, noise)

    samples, calls = _sample(setup, walk, facts["seeds"], options)
    # Kept pixels are taken from the image itself: a conversion to model units and back changes last bits.
    painted = samples * hole + x * (1 - hole)
    rows = {"input": x, "mask": x * (1 - hole) + hole, "painted": painted}
    facts |= {"mask": name_picture(mask), "resample": int(resample)}
    return Edit("inpaint", setup, rows, calls, facts, notes=notes)


@with_bar
def vary(
    run: Source,
    image: Picture,
    strength: float = 0.5,
    seeds: Sequence[int] | None = None,
    steps: int = 50,
    *,
    n: int = 8,
    seed: int = 0,
    **options: Unpack[EditOptions],
) -> Edit:
    """Generate variations of an image.

    Noise is added to the image up to the time `strength`, and removed again (SDEdit, Meng et al. 2022). The
    folder gets the images, strip.png and record.json.

    Args:
        run: a run folder, a pipeline or a model.
        image: the image: a file, an image of Pillow, an array or a tensor.
        strength: time in (0, 1]; 0.3 changes details, 0.6 shapes, 1 nearly everything.
        seeds: a list of seeds in place of `n` and `seed`.
        steps: sampling steps; only those at times below `strength` are done.
        n: number of images.
        seed: the results have the seeds S, S+1, ...
        options: see `EditOptions`.

    Returns:
        The variations, one for each seed.

    Raises:
        UserError: if there are several images, or the strength or a seed is out of range.

    Commands:
        ddim vary runs/photos-fast-1 rose.jpg --strength 0.5 -n 8
    """
    listed = list_seeds(n, seed, None) if seeds is None else seeds
    setup, x, facts, notes = _open_seeded(run, "a variation", image, listed, steps, options)
    x0, times = setup.pipeline.pixels.enter(x), setup.times

    def walk(denoise: Denoiser, blank: Tensor, filled: Sequence[int]) -> Iterator[State]:
        return sample_from_image(denoise, blank + x0.to(blank), strength, times, DDIM(), Noise(filled))

    varied, calls = _sample(setup, walk, facts["seeds"], options)
    used = [float(strength), *times[times < strength].tolist()]
    facts |= {"strength": float(strength), "times": used}
    return Edit("vary", setup, {"input": x, "varied": varied}, calls, facts, notes=notes)


def _open_seeded(
    run: Source, what: str, image: Picture, seeds: Sequence[int], steps: int, options: EditOptions
) -> tuple[SamplingSetup, Tensor, dict[str, Any], list[str]]:
    """Return how an edit of one image samples, the image (1, C, H, W), facts of the edit, and notes on it."""
    listed, notes = list_seeds(None, 0, seeds), []
    setup = open_edit(run, what, steps, options, seeded=True)
    x, names = open_pictures(setup.pipeline, [image], notes)
    if len(x) != 1:
        raise UserError(f"this edit takes one image, got {len(x)}")
    return setup, x, {"image": names[0], "seed": listed[0], "seeds": list(listed)}, notes


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
            latent, change = find_latents(denoise, x0, times, exact=exact)
            images = restore(denoise, latent.float(), times)
            latents.append(latent[: len(part)].float().cpu())
            restored.append(pipeline.to_images(images[: len(part)]))
            residual = max(residual, change)
    return torch.cat(latents), torch.cat(restored), counter.evaluations, residual
