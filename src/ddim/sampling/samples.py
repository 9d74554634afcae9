"""Folders of samples: a file for each seed, a sheet, a film and a record.

Samples of values or channels that PNG cannot store are .npy files (H, W, C). If the samples are not pictures
of 8 bits, or the run was trained on a file of arrays, the file samples.npy contains all samples, in the
order of their seeds.

The sheet is one image that shows the samples in this order. The film is an animated WebP of the sampling
process. The record contains all sampling options.
"""

import json
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from ddim.data.arrays import SUFFIXES
from ddim.data.vectors import read_vectors
from ddim.diffusion.samplers import State
from ddim.errors import UserError, format_count
from ddim.files import atomic_file, lock_folder, read_sealed, write_sealed
from ddim.machine.distributed import current_processes
from ddim.machine.progress import Progress, continue_progress, ignore_progress, with_bar
from ddim.plots.pictures import GAP, LARGEST_FILM, enlarge, make_sheet, save_film, save_png
from ddim.runs.folder import is_unused, make_output_folder
from ddim.runs.names import find_run_folder
from ddim.sampling.generate import Watch, check_samples, generate_together, list_seeds, split_into_parts
from ddim.sampling.pictures import is_picture, name_file, read_saved_image, show_image, write_images
from ddim.sampling.pipeline import LoadedRun, Pipeline, load_given_run
from ddim.sampling.record import make_record, sample_conditions, sampling_record
from ddim.sampling.sampling_setup import SamplingOptions, SamplingSetup, open_samples

RECORD, SHEET, FILM, STACK = "record.json", "grid.png", "film.webp", "samples.npy"
SHOWN = 256
"""The largest number of samples in the sheet and in the film; a film of large samples has fewer."""


@dataclass(frozen=True)
class Written:
    """The result of `sample_to_folder`.

    Attributes:
        folder: the folder of the samples.
        shown: the images of the sheet, (H, W, C) uint8.
        text: a line about the samples with the path of the sheet, and a line with that of the film.
    """

    folder: Path
    shown: Sequence[np.ndarray] = field(repr=False)
    text: str

    def __str__(self) -> str:
        """Return the lines about the samples."""
        return self.text

    def to_json(self) -> dict[str, Any]:
        """Return the folder and its record."""
        return {"folder": self.folder, **read_sealed(self.folder / RECORD)}


@with_bar
def sample_to_folder(  # noqa: PLR0913 (the choices of a user)
    run: str | Path | LoadedRun,
    n: int | None = None,
    steps: int | None = None,
    *,
    seed: int = 0,
    seeds: Iterable[int] | None = None,
    out: str | Path | None = None,
    film: bool = False,
    watch: Watch | None = None,
    progress: Progress = ignore_progress,
    **options: Unpack[SamplingOptions],
) -> Written:
    """Generate images with a run and write them to a folder.

    Each image depends on its seed alone, not on the number of images. The folder gets 00000.png, ... named by
    seed, grid.png with the first 256 samples, and record.json with everything that the images depend on. The
    same call with the same `out` generates only missing images; a new film needs all of them.

    Args:
        run: a run folder, RUN/best, a checkpoint or hub:OWNER/NAME[@REVISION].
        n: number of images (default: 16, or one for each seed).
        steps: sampling steps (default: the run's, 20 in most recipes).
        seed: the seed of the first image.
        seeds: a list of seeds in place of n and seed, such as 0-35,70.
        out: the folder (default: a new samples/RUN-N).
        film: also write film.webp, from noise to the images.
        watch: called for each state of each micro-batch, with its seeds, to show the samples on the way.
        progress: called with "samples" after each sampling step.
        options: see `SamplingOptions`.

    Other Parameters:
        guidance_interval: guide only at these log-SNRs, such as -2,5; an end may be left out.

    Raises:
        UserError: if the options do not fit the run, or the folder holds other files.

    Commands:
        ddim sample runs/photos-fast-1 -n 36
        ddim sample runs/photos-fast-1 --label frog --guidance 2 --film
    """
    if isinstance(vector := options.get("vector"), str | Path) and seeds is None and n is None:
        n = len(read_vectors(Path(vector)).rows)
    listed, pipeline = list_seeds(n, seed, seeds), load_given_run(run)
    setup = open_samples(pipeline, steps, listed, {"searched": True, **options})
    processes, record = current_processes(), make_record("samples", sampling_record(setup, listed))
    # Process 0 alone reads and writes the folder.
    folder = _make_folder(out, record) if processes.leads else None
    with lock_folder(folder) if folder else nullcontext():
        plan = _plan(pipeline, folder, listed, film, record) if folder else None
        before, filmed, missing = processes.broadcast(plan)
        frames: dict[float, list[Tensor]] = {}

        def see(part: Sequence[int], state: State) -> None:
            shown = [k for k, seed in enumerate(part) if seed in filmed]
            if shown:
                frames.setdefault(state.t, []).append(pipeline.to_images(state.x[shown]))
            if watch is not None:
                watch(part, state)

        nfe, seconds, done = before["nfe"], 0.0, len(listed) - len(missing)
        for part in split_into_parts(pipeline, missing, pipeline.runtime.micro_batch * processes.count):
            start = time.monotonic()
            onward = continue_progress(progress, done, len(listed))
            images, nfe = generate_together(setup, part, watch=see, progress=onward)
            check_samples(images, part)
            seconds += time.monotonic() - start
            done += len(part)
            if folder:
                write_images([find_sample(folder, each, pipeline) for each in part], images, pipeline.values)
        # Other processes have seen other samples.
        times = processes.broadcast(list(frames))
        frames = {t: processes.interleave(frames.get(t, [])) for t in times}
        if folder is None:
            return processes.broadcast(None)
        if filmed:
            sheets = [make_sheet(torch.cat(frames[t])) for t in sorted(frames, reverse=True)]
            save_film(folder / FILM, sheets)
        every = sorted({*before["seeds"], *listed})
        record |= {"nfe": nfe, "seeds": every, "film": filmed or before["film"]}
        record["seconds"] = round(before["seconds"] + seconds, 2)
        shown = _write_overviews(pipeline, folder, every)
        write_sealed(folder / RECORD, record)
        text = f"{_describe(setup, len(listed), len(missing), seconds, nfe)}: {folder / SHEET}"
        text += f"\nfilm: {folder / FILM}" if film else ""
        return processes.broadcast(Written(folder, shown, text))


def _describe(setup: SamplingSetup, count: int, made: int, seconds: float, nfe: int) -> str:
    """Return a text: the number of samples, how many were there before or how long they took, and their NFE.

    It also says what `ddim search` found and the samples use.
    """
    old = f", of which {count - made:,} were there before" if made < count else f" in {seconds:.1f} s"
    found = ["sampling times"] if setup.searched else []
    found += [f"guidance {setup.guidance.scale:g}"] if setup.guidance.searched else []
    used = f", with {' and '.join(found)} found by ddim search" if found else ""
    precision = setup.pipeline.runtime.precision
    used += "" if precision == "fp32" else f", in {precision}"
    return f"{format_count(count, 'image')}{old}, {format_count(nfe, 'network evaluation')} each{used}"


def find_sample(folder: Path, seed: int, pipeline: Pipeline) -> Path:
    """Return the path of the sample of a seed in a folder of samples."""
    return folder / name_file(f"{seed:05d}", pipeline.model.shape.channels, pipeline.values)


def _make_folder(out: str | Path | None, record: dict[str, Any]) -> Path:
    """Create the output folder, and return its path; a folder of other files is left unchanged."""
    if out is not None:
        _read_earlier(Path(out), record)
    # The folder is named after the run, also for RUN/best and for RUN/checkpoints/N.
    return make_output_folder(out, "samples", find_run_folder(record["checkpoint"]["path"]).resolve().name)


def _plan(
    pipeline: LoadedRun, folder: Path, seeds: Sequence[int], film: bool, record: dict[str, Any]
) -> tuple[dict[str, Any], Sequence[int], Sequence[int]]:
    """Return the record of earlier calls, the seeds to film, and the missing seeds."""
    before = _read_earlier(folder, record)
    if before is None:
        # The record marks the folder as a folder of samples, so that the same call can finish it later.
        before = record | {"seeds": [], "seconds": 0.0, "film": None}
        write_sealed(folder / RECORD, before)
    side = max(pipeline.model.shape.height, pipeline.model.shape.width)
    fitting = ((LARGEST_FILM + GAP) // (side + GAP)) ** 2
    filmed = list(seeds[: min(SHOWN, fitting)])
    if not film or (before["film"] == filmed and (folder / FILM).is_file()):
        filmed = []
    # Files are written atomically, so those that exist are whole.
    missing = [s for s in seeds if s in filmed or not find_sample(folder, s, pipeline).exists()]
    return before, filmed, missing


def _read_earlier(folder: Path, record: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record of the samples in a folder, None if it is empty.

    Raises:
        UserError: if the folder holds other files, or samples that were not made as `record` says.
    """
    if not folder.is_dir() or is_unused(folder):
        return None
    earlier = read_sealed(folder / RECORD) if (folder / RECORD).is_file() else {}
    if earlier.get("kind") != "samples":
        raise UserError(f"folder {folder} holds files that are not samples; give a new folder")
    old = sample_conditions(earlier)
    new = json.loads(json.dumps(sample_conditions(record)))
    if changed := [name for name in new if old[name] != new[name]]:
        raise UserError(f"folder {folder} holds samples with other {', '.join(changed)}; give a new folder")
    return earlier


def _write_overviews(pipeline: LoadedRun, folder: Path, seeds: Sequence[int]) -> list[np.ndarray]:
    """Write the sheet, and the array of all samples if it is needed; return the images of the sheet."""
    samples = [path for seed in seeds if (path := find_sample(folder, seed, pipeline)).exists()]
    shown = [show_image(read_saved_image(path), pipeline.values) for path in samples[:SHOWN]]
    images = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)
    save_png(folder / SHEET, enlarge(make_sheet(images)))
    pictures = is_picture(pipeline.values, pipeline.model.shape.channels)
    if pipeline.recipe.data.source.lower().endswith(SUFFIXES) or not pictures:
        first = read_saved_image(samples[0])
        shape = (len(samples), *(first.shape if first.shape[2] > 1 else first.shape[:2]))
        # One sample after the other, so that the memory does not grow.
        with atomic_file(folder / STACK) as file:
            header = {"descr": first.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for sample in samples:
                file.write(read_saved_image(sample).tobytes())
    return shown
