"""Make images for the page as `ddim sample` and the edits do, in the thread of the models."""

from __future__ import annotations

import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ddim.diffusion.samplers import State
from ddim.files import read_sealed, shorten_paths
from ddim.plots.pictures import count_columns, make_sheet, render_png, save_png
from ddim.recipe.codec import dump
from ddim.runs.folder import CHECKPOINTS, RUN
from ddim.sampling import edits
from ddim.sampling.pictures import is_picture, read_saved_image, show_image
from ddim.sampling.pipeline import LoadedRun, load
from ddim.sampling.samples import FILM, RECORD, SHEET, find_sample, sample_to_folder
from ddim.web.jobs import Enough, Job
from ddim.web.options import write_call, write_command

KEPT = 4
"""Number of loaded runs that are kept in memory."""
SHOWN, SIDE = 16, 512
"""The largest number of images in a preview, and its largest height and width in pixels."""
ARCHIVE = "all.zip"

EDITS = ("vary", "interpolate", "inpaint", "invert")


@dataclass(frozen=True)
class MadeImage:
    """An image of a result: its picture, the name and the address of its file, and its seed.

    The picture is the file itself, unless a browser cannot show it, such as an array of 8 channels.
    """

    url: str
    name: str
    file: str
    seed: int | None = None


@dataclass(frozen=True)
class Result:
    """New images, the files about them, and the command and Python code that make the same images.

    `seeded` says whether an interpolation between the seeds, which uses their latents alone, ends at these
    images if it has the same steps and the same guidance. `options` are those of the request.
    """

    id: str
    run: str
    kind: str
    images: list[MadeImage]
    sheet: str
    film: str | None
    record: str
    archive: str
    nfe: int | None
    seconds: float
    command: str
    python: str
    notes: list[str] = field(default_factory=list)
    seeded: bool = False
    options: dict[str, Any] = field(default_factory=dict)


class Pipelines:
    """Keeps the runs that were loaded last. If a run has a newer checkpoint, it is loaded again."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], LoadedRun] = OrderedDict()

    def open(self, run: Path) -> LoadedRun:
        """Return the run in a folder, loaded now or kept from an earlier call."""
        checkpoints = sorted(path.name for path in (run / CHECKPOINTS).glob("step-*"))
        key = run, (run / RUN).stat().st_mtime_ns, *checkpoints
        if key not in self._kept:
            self._kept[key] = load(run)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


PIPELINES = Pipelines()


def sample_run(job: Job, run: Path, folder: Path, seeds: Sequence[int], options: Mapping[str, Any]) -> Result:
    """Sample a run into a folder as `ddim sample` does.

    If the time is over, the images that are ready are the result.
    """
    pipeline, start, notes = PIPELINES.open(run), time.monotonic(), []
    preview = Preview(job, pipeline, seeds)
    make = partial(sample_to_folder, pipeline, out=folder, progress=preview.progress, **options)
    try:
        written = make(seeds=seeds, watch=preview.watch)
    except Enough:
        ready = [seed for seed in seeds if find_sample(folder, seed, pipeline).exists()]
        if not ready:
            raise
        notes = [f"only {len(ready)} of {len(seeds)} images were ready in time"]
        seeds, job.check = ready, lambda: None
        written = make(seeds=seeds)
    record = read_sealed(folder / RECORD)
    plain = not options.keys() - {"steps", "guidance", "guidance_interval", "guide_with", "film"}
    usual = record["grid"] == dump(pipeline.recipe.grid, named=True) and record.get("label") is None
    expected = options.get("guidance", 1.0)
    seeded = plain and usual and not pipeline.recipe.sampler.stochastic and record["guidance"] == expected
    paths = [find_sample(folder, seed, pipeline) for seed in seeds]
    facts = {"seeds": [*seeds], **options}
    values = {name: value for name, value in facts.items() if name != "film"}
    return Result(
        folder.name,
        str(run),
        "sample",
        list_images(folder, paths, pipeline, seeds),
        SHEET,
        FILM if options.get("film") else None,
        RECORD,
        pack(folder),
        written.nfe,
        round(time.monotonic() - start, 2),
        write_command("sample", [str(run)], facts),
        write_call("sample", [str(run)], values),
        [*notes, *describe_pictures(pipeline)],
        seeded,
        facts,
    )


def edit_run(
    job: Job,
    kind: str,
    run: Path,
    folder: Path,
    files: Sequence[Path],
    options: Mapping[str, Any],
    before: str,
) -> Result:
    """Edit images in a folder as the command `kind` does; `before` has the commands that made them."""
    pipeline, start = PIPELINES.open(run), time.monotonic()
    make: Callable[..., edits.Edit] = getattr(edits, kind)
    seeds = options.get("seeds") or ()
    preview = Preview(job, pipeline, () if kind == "interpolate" else seeds)
    edit = make(pipeline, *files, progress=preview.progress, watch=preview.watch, **options)
    edit.save(folder)
    # For an inversion, the inputs come first, resized to the run's size.
    rows = ["input", "restored"] if kind == "invert" else list(edit.rows)[-1:]
    paths = [folder / name for row in rows for name in edit.name_files(row)]
    words = [str(run), *(file.name for file in files)]
    facts = {name: value.name if isinstance(value, Path) else value for name, value in options.items()}
    return Result(
        folder.name,
        str(run),
        kind,
        list_images(folder, paths, pipeline, () if kind in ("interpolate", "invert") else seeds),
        edits.STRIP,
        edits.FILM if kind == "interpolate" else None,
        edits.RECORD,
        pack(folder),
        edit.calls,
        round(time.monotonic() - start, 2),
        before + write_command(kind, words, facts),
        write_call(kind, words, facts),
        [*(shorten_paths(note, folder) for note in edit.notes), *describe_pictures(pipeline)],
        options=facts,
    )


# Files


def list_images(
    folder: Path, paths: Sequence[Path], pipeline: LoadedRun, seeds: Sequence[int]
) -> list[MadeImage]:
    """Return the images of a result; one that a browser cannot show gets a picture view-*.png beside it."""
    shown = is_picture(pipeline.values, pipeline.model.shape.channels)
    images = []
    for k, path in enumerate(paths):
        view = path
        if not shown:
            view = folder / f"view-{path.stem}.png"
            save_png(view, show_image(read_saved_image(path), pipeline.values))
        images.append(MadeImage(view.name, path.name, path.name, seeds[k] if k < len(seeds) else None))
    return images


def describe_pictures(pipeline: LoadedRun) -> list[str]:
    """Return a sentence if the page's pictures show less than the saved files."""
    channels, values = pipeline.model.shape.channels, pipeline.values
    if is_picture(values, channels):
        return []
    part = f"the first {min(channels, 3)} of {channels} channels" if channels > 4 else "all channels"
    return [f"The pictures show {part} in 8 bits; the files hold the exact values ({values.type})."]


def pack(folder: Path) -> str:
    """Write the files of a folder, but for pictures of the page, into a .zip file; return its name."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    with zipfile.ZipFile(folder / ARCHIVE, "w", zipfile.ZIP_STORED) as file:
        for name in names:
            if name != ARCHIVE and not name.startswith((".", "view-")):
                file.write(folder / name, name)
    return ARCHIVE


# Previews


@dataclass
class Preview:
    """Shows the states of a sampler as small sheets while a job runs.

    Attributes:
        job: the job.
        pipeline: the model.
        seeds: the seeds of the result, in its order; () if the result's images are numbered.
        done: how much of the work is done, and how much there is.
    """

    job: Job
    pipeline: LoadedRun
    seeds: Sequence[int]
    done: tuple[float, int] = (0, 1)

    def progress(self, what: str, done: float, total: int) -> None:
        """Keep how much is done; show it, unless the states of samples say it."""
        self.done = done, total
        if what == "samples":
            self.job.check()
        else:
            self.job.show(done, total, what)

    def watch(self, seeds: Sequence[int], state: State) -> None:
        """Show a state; see `ddim.sampling.generate.Watch`."""
        first = list(self.seeds).index(seeds[0]) if self.seeds else seeds[0]
        self.job.show(*self.done, "samples", partial(self._draw, first, state))

    def _draw(self, first: int, state: State) -> tuple[bytes, int, int]:
        images = self.pipeline.pixels.leave(state.x[:SHOWN].float()).cpu()
        sheet = make_sheet(images)
        step = -(-max(sheet.shape[:2]) // SIDE)  # a large sheet loses pixels
        return render_png(sheet[::step, ::step]), first, count_columns(len(images))
