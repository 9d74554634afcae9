"""Make images for the page as `ddim sample` and the edits do, in the thread of the models."""

from __future__ import annotations

import base64
import secrets
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ddim.data.decode import PICTURE_CHANNELS, UnusableError, decode_image, hide_warnings, read_header
from ddim.diffusion.samplers import State
from ddim.errors import quote
from ddim.files import read_sealed, shorten_paths
from ddim.plots.pictures import count_columns, make_sheet, render_png, save_png
from ddim.recipe.codec import dump
from ddim.runs.folder import CHECKPOINTS, RUN
from ddim.sampling import edits
from ddim.sampling.pictures import is_picture, read_saved_image, show_image
from ddim.sampling.pipeline import LoadedRun, load
from ddim.sampling.samples import FILM, RECORD, SHEET, find_sample, sample_to_folder
from ddim.sampling.searched import read_searched
from ddim.training.progress import format_duration
from ddim.web.answers import Refused
from ddim.web.jobs import Enough, Job
from ddim.web.options import write_call, write_options
from ddim.web.runs import api_address

SHOWN, SIDE = 16, 512
"""The largest number of images in a preview, and the largest height and width of a picture in pixels."""
PATIENCE = 2.0
"""Seconds of work after which its duration is estimated."""
SEEDS = {"sample": range(16), "vary": range(8), "inpaint": range(4)}
"""The seeds of the kinds of results that have seeds, if a request gives none."""
ARCHIVE, VIEW = "all.zip", "view-"
"""The archive of a result, and the start of the names of pictures for the page alone."""
UPLOAD = "upload"
"""The kind of an uploaded image, beside those of results."""


@dataclass(frozen=True)
class MadeImage:
    """An image of a result: its picture, its file, the seed and the class of a sample.

    The picture is the file itself, unless a browser cannot show it, such as an array of 8 channels.
    """

    url: str
    name: str
    file: str
    seed: int | None = None
    label: str | None = None


@dataclass
class Result:
    """New images, the addresses of the files about them, and how to make the same images.

    Attributes:
        run: the id of the run.
        kind: "sample" or the name of the edit.
        request: the body of the request, with its seeds.
        id: the id of the result, which nobody can guess.
        images: the images.
        before: the picture of the image that was edited, at the size of the run.
        sheet: the picture of all images.
        film: the animation, if there is one.
        record: the record.
        archive: all files.
        nfe: network evaluations of an image; of an edit, all network evaluations.
        seconds: how long the work took.
        command: the commands that make the same images.
        python: the code that makes the same images.
        notes: sentences about the images.
        seeded: whether an interpolation between the seeds, which uses their latents alone, ends at these
            images if it has the same steps and the same guidance.
    """

    run: str
    kind: str
    request: Mapping[str, Any]
    id: str = field(default_factory=partial(secrets.token_urlsafe, 12))
    images: list[MadeImage] = field(default_factory=list)
    before: str | None = None
    sheet: str = ""
    film: str | None = None
    record: str = ""
    archive: str = ""
    nfe: int = 0
    seconds: float = 0.0
    command: str = ""
    python: str = ""
    notes: list[str] = field(default_factory=list)
    seeded: bool = False

    @property
    def place(self) -> str:
        """The folder into which a shown command writes this result, if another command edits its images."""
        return name_place(self.kind, self.id)


def name_place(kind: str, key: str) -> str:
    """Return the folder that shown commands name for the files of a result or an upload with this id."""
    return f"{kind}-{key[:6]}"


@lru_cache(4)
def load_stamped(run: Path, stamp: tuple[object, ...]) -> LoadedRun:  # noqa: ARG001 (a key of the cache)
    """Return the run in a folder; the runs of the last calls stay in memory."""
    return load(run)


def open_run(run: Path) -> LoadedRun:
    """Return the run in a folder; if it has a newer checkpoint, it is loaded again."""
    checkpoints = sorted(path.name for path in (run / CHECKPOINTS).glob("step-*"))
    return load_stamped(run, ((run / RUN).stat().st_mtime_ns, *checkpoints))


def fill_result(
    result: Result, job: Job, run: Path, folder: Path, options: dict[str, Any], files: Sequence[Path] = ()
) -> None:
    """Make the images of a result in its folder, as the command of its kind does.

    Args:
        result: gets the images, and everything about them.
        job: the job that makes them.
        run: the folder of the run.
        folder: the folder of the result.
        options: the arguments of the function of this kind.
        files: the images to edit, in the folder.
    """
    start, pipeline, kind = time.monotonic(), open_run(run), result.kind
    preview = Preview(job, pipeline, options["seeds"] if kind in SEEDS else ())
    if kind == "sample":
        preview.part = pipeline.runtime.micro_batch
        sample_run(result, preview, folder, options)
    else:
        edit_run(result, preview, folder, options, files)
    words = [str(run), *(str(file.relative_to(folder)) for file in files)]
    facts = dict(options)
    if "mask" in facts:
        facts["mask"] = str(facts["mask"].relative_to(folder))
    result.command += quote("ddim", kind, *words, *write_options(kind, facts))
    result.python = write_call(kind, words, {name: facts[name] for name in facts if name != "film"})
    channels, values = pipeline.model.shape.channels, pipeline.values
    if not is_picture(values, channels):
        part = f"the first 3 of {channels} channels" if channels > 4 else "all channels"
        exact = f"the files hold the exact values ({values.type})"
        result.notes.append(f"The pictures show {part} in 8 bits; {exact}.")
    result.record, result.archive = find_address(folder / RECORD), find_address(pack(folder))
    result.film = find_address(folder / FILM) if (folder / FILM).exists() else None
    result.seconds = round(time.monotonic() - start, 2)


def sample_run(result: Result, preview: Preview, folder: Path, options: dict[str, Any]) -> None:
    """Sample a run into a folder; if the time is over, the images that are ready are the result."""
    pipeline = preview.pipeline
    make = partial(sample_to_folder, pipeline, out=folder)
    try:
        make(**options, watch=preview.watch, progress=preview.progress)
    except Enough:
        ready = [seed for seed in options["seeds"] if find_sample(folder, seed, pipeline).exists()]
        if not ready:
            raise
        why = "you stopped" if preview.job.enough else "the time was over"
        result.notes.append(f"{len(ready)} of {len(options['seeds'])} samples: {why}")
        # A film would need all samples again.
        options |= {"seeds": ready, "film": False}
        make(**options)
    record = read_sealed(folder / RECORD)
    result.nfe, result.sheet = record["nfe"], find_address(folder / SHEET)
    for seed, label in zip(options["seeds"], list_labels(pipeline, options), strict=True):
        result.images.append(show_file(find_sample(folder, seed, pipeline), pipeline, seed, label))
    plain = not options.keys() - {"seeds", "steps", "film", "guidance", "guidance_interval", "guide_with"}
    usual = record["grid"] == dump(pipeline.recipe.grid, named=True) and record.get("label") is None
    same = options.get("guidance", 1.0) == record["guidance"]
    result.seeded = plain and usual and same
    if any(read_searched(pipeline.checkpoint.run).values()):
        options["searched"] = True  # the shown code asks for what the command uses by default


def list_labels(pipeline: LoadedRun, options: Mapping[str, Any]) -> Sequence[str | None]:
    """Return the class of each sample, None for no class."""
    seeds, names = options["seeds"], pipeline.classes
    label = pipeline.find_label(options.get("label"), options.get("vector"), seeds)
    numbers = pipeline.assign_labels(label, seeds)
    if numbers is None or pipeline.vectors is not None:
        return [None] * len(seeds)
    return [names[k] if k < len(names) else f"class {k}" for k in numbers.tolist()]


def edit_run(
    result: Result, preview: Preview, folder: Path, options: Mapping[str, Any], files: Sequence[Path]
) -> None:
    """Edit images in a folder."""
    pipeline, make = preview.pipeline, getattr(edits, result.kind)
    edit: edits.Edit = make(pipeline, *files, progress=preview.progress, watch=preview.watch, **options)
    edit.save(folder)
    # For an inversion, the inputs come first, resized to the run's size.
    rows = ["input", "restored"] if result.kind == "invert" else list(edit.rows)[-1:]
    paths = [folder / name for row in rows for name in edit.name_files(row)]
    seeds = preview.seeds or [None] * len(paths)
    result.images = [show_file(path, pipeline, seed) for path, seed in zip(paths, seeds, strict=True)]
    result.nfe, result.sheet = edit.calls, find_address(folder / edits.STRIP)
    places = [path for path in folder.iterdir() if path.is_dir()]
    for note in edit.notes:
        for place in (*places, folder):
            note = shorten_paths(note, place)  # noqa: PLW2901
        result.notes.append(note)
    if "input" in edit.rows:
        result.before = show_file(folder / edit.name_files("input")[0], pipeline).url


# Files


def find_address(path: Path) -> str:
    """Return the address of a file of a result."""
    return api_address("results", path.parent.name, path.name)


def show_file(
    path: Path, pipeline: LoadedRun, seed: int | None = None, label: str | None = None
) -> MadeImage:
    """Return an image of a result; one that a browser cannot show gets a picture view-*.png beside it."""
    view = path
    if not is_picture(pipeline.values, pipeline.model.shape.channels):
        view = path.with_name(f"{VIEW}{path.stem}.png")
        save_png(view, show_image(read_saved_image(path), pipeline.values))
    return MadeImage(find_address(view), path.name, find_address(path), seed, label)


def pack(folder: Path) -> Path:
    """Write the files of a result and the uploads behind it into a .zip file; return its path.

    Pictures of the page alone are left out, and the images of other results, which their commands make.
    """
    made = [path for path in folder.iterdir() if path.is_file()]
    paths = [path for path in made if not path.name.startswith((".", VIEW, ARCHIVE))]
    with zipfile.ZipFile(folder / ARCHIVE, "w", zipfile.ZIP_STORED) as file:
        for path in sorted([*paths, *folder.glob(f"{UPLOAD}-*/*")]):
            file.write(path, path.relative_to(folder))
    return folder / ARCHIVE


def preview_upload(path: Path) -> Path:
    """Write a small picture of an uploaded image beside it, and return its path.

    Raises:
        Refused: if the image cannot be decoded.
    """
    data, view = path.read_bytes(), path.with_name(f"{VIEW}{path.stem}.png")
    try:
        with hide_warnings():
            header = read_header(data)
            channels = 3 if header.channels in PICTURE_CHANNELS else header.channels
            shrink = max(1.0, max(header.width, header.height) / SIDE)
            size = [max(1, round(side / shrink)) for side in (header.height, header.width)]
            pixels = decode_image(data, (size[0], size[1]), channels, "uint8").pixels
    except UnusableError as error:
        raise Refused(422, f"this image cannot be used: {error}") from None
    save_png(view, pixels[..., : 3 if channels >= 3 else 1])
    return view


# Previews


@dataclass
class Preview:
    """Shows the states of a sampler as small sheets while a job runs.

    Attributes:
        job: the job.
        pipeline: the model.
        seeds: the seeds of the result, in its order; () if the result's images are numbered.
        part: the number of images that are delivered together; 0 if all are.
        done: how much of the work is done, and how much there is.
        start: when the first progress was made, and how much was done then.
    """

    job: Job
    pipeline: LoadedRun
    seeds: Sequence[int]
    part: int = 0
    done: tuple[float, int] = (0, 1)
    start: tuple[float, float] | None = None

    def progress(self, what: str, done: float, total: int) -> None:
        """Keep how much is done; show it, unless the states of samples say it.

        Raises:
            Refused: if nothing would be ready in time.
        """
        now = time.monotonic()
        self.done, self.start = (done, total), self.start or (now, done)
        spent, made = now - self.start[0], done - self.start[1]
        rest = min(total, self.part or total) - done
        if spent > PATIENCE and rest > 0 < made and now + rest * spent / made > self.job.until:
            most, whole = (format_duration(seconds) for seconds in (self.job.seconds, spent * total / made))
            raise Refused(422, f"this takes about {whole} here, and a request may take {most}; ask for less")
        if what == "samples":
            self.job.check()
        else:
            self.job.show(what, done, total)

    def watch(self, seeds: Sequence[int], state: State) -> None:
        """Show a state; see `ddim.sampling.generate.Watch`."""
        first = list(self.seeds).index(seeds[0]) if self.seeds else seeds[0]
        self.job.show("samples", *self.done, partial(self._draw, first, state))

    def _draw(self, first: int, state: State) -> tuple[str, int, int]:
        images = self.pipeline.to_images(state.x[:SHOWN])
        sheet = make_sheet(images)
        step = -(-max(sheet.shape[:2]) // SIDE)  # a large sheet loses pixels
        png = base64.b64encode(render_png(sheet[::step, ::step])).decode()
        return f"data:image/png;base64,{png}", first, count_columns(len(images))
