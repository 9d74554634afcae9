"""Write a folder of samples: a file for each seed, a sheet, a film and a record.

Samples are PNG files of 8 bits, or of 16 bits for gray images of 16 bits. Samples of other values or channels
are .npy files (H, W, C). If the samples are not pictures of 8 bits, or the run was trained on a file of
arrays, the file samples.npy contains the samples of the last call, in the order of the seeds.

The sheet is one image that shows the samples. The film is an animated WebP of the sampling process. The
record contains all sampling options.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddim.data.arrays import SUFFIXES
from ddim.diffusion.noise import check_seeds
from ddim.diffusion.samplers import State
from ddim.errors import UserError
from ddim.files import lock_folder, read_sealed, write_sealed
from ddim.machine.distributed import current_processes
from ddim.machine.progress import Progress, continue_progress, ignore_progress
from ddim.plots.pictures import GAP, LARGEST_FILM, check_zoom, enlarge, save_film, save_png
from ddim.recipe.options import flatten_as_text
from ddim.runs.folder import is_unused, make_output_folder
from ddim.runs.names import find_run_folder
from ddim.sampling.generate import (
    Film,
    Watch,
    check_samples,
    gather_samples,
    generate,
    share_seeds,
    split_into_parts,
)
from ddim.sampling.pipeline import LoadedRun
from ddim.sampling.provenance import (
    check_same_sampling,
    check_same_weights,
    make_record,
    sample_conditions,
    sampling_record,
)
from ddim.sampling.sample_files import SampleFiles
from ddim.sampling.sampling_setup import SamplingSetup

RECORD, FILM = "record.json", "film.webp"
SHOWN = 256
"""The largest number of samples in the sheet and in the film; a film of large samples has fewer."""


@dataclass(frozen=True)
class Written:
    """The result of `write_samples`.

    Attributes:
        folder: the folder of the samples.
        sheet: one image of the first samples, (H, W, 3) uint8.
        made: number of samples that this call made; the others were there before.
        seconds: seconds of sampling.
        nfe: network evaluations per sample.
    """

    folder: Path
    sheet: np.ndarray
    made: int
    seconds: float
    nfe: int


@dataclass(frozen=True)
class Output:
    """Options of the files that `write_samples` writes.

    Attributes:
        folder: the output folder, by default a new folder samples/RUN-N.
        film: whether to write film.webp, an animation of the samples from noise to images. If the first
            samples exist already, they are generated again, because the film needs their noisy states.
        zoom: the integer factor by which the sheet and the film are enlarged, by default to about 800 pixels.
        watch: called for each state of each micro-batch, as by `generate`, to show the samples on the way.
    """

    folder: str | Path | None = None
    film: bool = False
    zoom: int | None = None
    watch: Watch | None = None

    def __post_init__(self) -> None:
        check_zoom(self.zoom)


def write_samples(
    setup: SamplingSetup[LoadedRun],
    seeds: Sequence[int],
    output: Output = Output(),  # noqa: B008  (a frozen value)
    progress: Progress = ignore_progress,
) -> Written:
    """Generate samples into a folder: a file for each, a sheet (one image of the first samples) and a record.

    `output.film` adds a film (an animated WebP of the sampling process). If the folder holds samples of the
    same run with the same options, only missing samples are generated, as after an interruption. Images are
    written while sampling goes on, so the memory does not grow.

    Args:
        setup: the loaded run, with steps, label and guidance.
        seeds: the seeds; image k depends on seeds[k] alone.
        output: the output folder, and options of the sheet and the film.
        progress: called with "samples" after each sampling step.

    Raises:
        UserError: if a seed cannot be used, the folder holds other files, or another process is writing into
            it.
    """
    check_seeds(seeds)
    pipeline, processes = setup.pipeline, current_processes()
    check_same_weights(pipeline)
    record = make_record("samples", sampling_record(setup, seeds), pipeline)
    check_same_sampling(record)
    # Process 0 alone reads and writes the folder; the others may be on machines that do not see it.
    folder = _make_folder(output.folder, record) if processes.leads else None
    with nullcontext() if folder is None else lock_folder(folder):
        plan = None if folder is None else _plan(pipeline, seeds, folder, output, record)
        todo = processes.broadcast(plan)
        frames = Film(pipeline.pixels, todo.filmed)
        watch = _watch_both(frames.add if todo.filmed else None, output.watch)
        nfe, seconds = _make_missing(setup, todo, len(seeds), watch, progress)
        if todo.filmed:
            frames.collect()
        if not processes.leads:
            return processes.broadcast(None)
        sheet = _draw(todo, frames, output)
        # One array, if the samples are not 8-bit pictures or the run was trained on arrays.
        if pipeline.recipe.data.source.lower().endswith(SUFFIXES) or not todo.files.pictures:
            todo.files.stack(seeds)
        end = {"nfe": nfe, "seeds": sorted({*todo.there["seeds"], *seeds})}
        end |= {"seconds": round(todo.there["seconds"] + seconds, 2)}
        end |= {"film": todo.filmed or todo.there["film"]}
        write_sealed(todo.files.folder / RECORD, {**record, **end})
        return processes.broadcast(Written(todo.files.folder, sheet, len(todo.missing), seconds, nfe))


def _make_missing(
    setup: SamplingSetup[LoadedRun], todo: _Plan, count: int, watch: Watch | None, progress: Progress
) -> tuple[int, float]:
    """Generate and write the missing samples; return the NFE and the seconds of sampling.

    `count` is the number of all samples, including those that exist already.
    """
    pipeline, processes = setup.pipeline, current_processes()
    nfe, seconds, done = todo.there["nfe"], 0.0, count - len(todo.missing)
    for part in split_into_parts(pipeline, todo.missing, pipeline.runtime.micro_batch * processes.count):
        start, onward = time.monotonic(), continue_progress(progress, done, count)
        mine, made = generate(setup, share_seeds(pipeline, part), watch=watch, progress=onward)
        # A sampler of the user may need more evaluations for some images than were counted before.
        images, (nfe,) = gather_samples(pipeline, mine), processes.highest(made)
        check_samples(images, part, pipeline)
        done, seconds = done + len(part), seconds + time.monotonic() - start
        if processes.leads:
            todo.files.write(part, images)
    return nfe, seconds


def _watch_both(one: Watch | None, other: Watch | None) -> Watch | None:
    if one is None or other is None:
        return one or other

    def watch(seeds: Sequence[int], state: State) -> None:
        one(seeds, state)
        other(seeds, state)

    return watch


@dataclass(frozen=True)
class _Plan:
    """What a call of `write_samples` has to do.

    Attributes:
        files: the files of the samples.
        there: the NFE, seeds and seconds of earlier calls, and the seeds of their film, from the record.
        shown: the seeds of the sheet.
        filmed: the seeds of the film; [] if no film must be made.
        missing: the seeds whose samples must be made.
    """

    files: SampleFiles
    there: dict[str, Any]
    shown: list[int]
    filmed: list[int]
    missing: list[int]


def _plan(
    pipeline: LoadedRun, seeds: Sequence[int], folder: Path, output: Output, record: dict[str, Any]
) -> _Plan:
    there, files = _open_folder(folder, record), SampleFiles(folder, pipeline.model.shape, pipeline.values)
    shown = list(seeds[:SHOWN])
    filmed = shown[: ((LARGEST_FILM + GAP) // (max(files.shape.height, files.shape.width) + GAP)) ** 2]
    if not output.film or (there["film"] == filmed and (folder / FILM).is_file()):
        filmed = []
    needed = frozenset(filmed)
    missing = [s for s in seeds if s in needed or files.read(s) is None]
    return _Plan(files, there, shown, filmed, missing)


def _draw(todo: _Plan, frames: Film, output: Output) -> np.ndarray:
    """Write the sheet (one image of the first samples) and the film if needed; return the sheet's pixels."""
    folder, sheet = todo.files.folder, todo.files.draw_sheet(todo.shown)
    save_png(folder / "grid.png", enlarge(sheet, output.zoom))
    if todo.filmed:
        save_film(folder / FILM, frames.frames(), zoom=output.zoom)
    return sheet


def _make_folder(out: str | Path | None, record: dict[str, Any]) -> Path:
    """Create the output folder, and return its path.

    A folder that holds files of another kind is refused and left unchanged.
    """
    if out is not None:
        _read_record(Path(out), record)
    # The folder is named after the run, also for RUN/best and for RUN/checkpoints/N.
    named = find_run_folder(record["checkpoint"]["path"]) if "checkpoint" in record else Path("model")
    return make_output_folder(None if out is None else Path(out), "samples", named.resolve().name)


def _open_folder(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Return the NFE, seeds and seconds of the samples in the folder, and the seeds of their film."""
    there: dict[str, Any] = {"nfe": record["nfe"], "seeds": [], "seconds": 0.0, "film": None}
    before = _read_record(folder, record)
    if before is None:
        # The record marks the folder as a folder of samples, so that the same call can finish it later.
        write_sealed(folder / RECORD, record | there)
        return there
    return there | {name: value for name, value in before.items() if name in there}


def _read_record(folder: Path, record: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record of the samples in a folder, after checking that they were made as `record` says.

    If the folder does not exist or is empty, return None.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"the output must be a folder, got the file {folder}")
    if not folder.exists() or is_unused(folder):
        return None
    if not (folder / RECORD).is_file():
        raise UserError(f"folder {folder} holds files that are not samples; give a new folder")
    before = read_sealed(folder / RECORD)
    if not isinstance(before, dict) or before.get("kind") != "samples":
        raise UserError(f"folder {folder} holds a record of something other than samples; give a new folder")
    if others := _differences(before, record):
        raise UserError(f"folder {folder} holds samples with {others}; give a new folder")
    return before


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Describe how the sampling options of two records differ; return "" if they are equal."""
    olds, news = (sample_conditions(record) for record in (there, here))
    if olds.pop("checkpoint") != news.pop("checkpoint"):
        return "weights of another checkpoint"
    if olds["times"] != news["times"]:
        counts = [len(times or ()) for times in (olds.pop("times"), news.pop("times"))]
        equal = counts[0] == counts[1]
        return "other sampling times" if equal else f"{counts[0]} sampling steps, not {counts[1]}"
    old, new = flatten_as_text(olds), flatten_as_text(news)
    names = [name for name in old | new if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name, 'none')}, not {new.get(name, 'none')}" for name in names[:3])
