"""Sample runs as `ddim sample` does; runs in the worker process."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from ddim.runs.folder import CHECKPOINTS, RUN
from ddim.sampling.pipeline import LoadedRun, load
from ddim.sampling.samples import FILM, RECORD, SHEET, find_sample, write_samples
from ddim.sampling.sampling_setup import choose_sampling, collect_guidance
from ddim.web import tasks
from ddim.web.preview import SamplePreview
from ddim.web.repeat import guidance_options, sample_call, sample_command
from ddim.web.views import describe_views, write_views
from ddim.web.worker_process import Monitor

KEPT = 4
"""Number of loaded runs that are kept in memory."""
ARCHIVE = "all.zip"


class Pipelines:
    """Keeps the runs that were loaded last. If a run has a newer checkpoint, it is loaded again."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], LoadedRun] = OrderedDict()

    def open(self, run: str) -> LoadedRun:
        """Return the run in the folder `run`, loaded now or kept from an earlier call."""
        key = (run, _stamp_run(Path(run)))
        if key not in self._kept:
            self._kept[key] = load(run)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def _stamp_run(run: Path) -> tuple[tuple[str, int], ...]:
    """Return values that change if the checkpoints or the run.json of a run change."""
    folders = [path for path in (run / CHECKPOINTS).glob("*") if path.is_dir()]
    return tuple(sorted((path.name, _when_changed(path)) for path in [*folders, run / RUN]))


def _when_changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # a training in progress removes old checkpoints
        return 0


PIPELINES = Pipelines()


def sample_run(task: tasks.SampleTask, monitor: Monitor) -> dict[str, Any]:
    """Sample a run as `ddim sample` does, and return a description of the result.

    The files of the result are written into the folder of the task.

    Raises:
        UserError: if the task cannot be done.
    """
    run = PIPELINES.open(task.run)
    label = run.find_label(task.label, task.vector, task.seeds)
    guidance = collect_guidance(**guidance_options(task))
    setup = choose_sampling(run, task.steps, label, task.fields, guidance=guidance)
    pipeline = setup.pipeline
    # An interpolation uses the sampler, grid and clipping of the recipe.
    usual = not task.fields and not setup.searched and not pipeline.recipe.sampler.stochastic
    batches = -(-len(task.seeds) // pipeline.runtime.micro_batch)
    preview = SamplePreview(pipeline, monitor, task.seeds, batches * (setup.steps + 1))
    watch = preview.watch if task.previews else None
    written = write_samples(
        setup,
        task.seeds,
        task.folder,
        film=task.film,
        watch=watch,
        progress=lambda *_: monitor.check(),
    )
    stored = archive(written.folder)
    views = write_views([find_sample(written.folder, seed, pipeline) for seed in task.seeds], pipeline)
    return {
        "images": [{"seed": seed, **view} for seed, view in zip(task.seeds, views, strict=True)],
        "sheet": SHEET,
        "film": FILM if task.film else None,
        "record": RECORD,
        "archive": stored,
        "nfe": written.nfe,
        "seconds": round(written.seconds, 3),
        "command": sample_command(task, pipeline.classes),
        "python": sample_call(task, pipeline),
        "notes": describe_views(pipeline),
        "seeded": usual and label is None and not setup.guidance.searched,
    }


def archive(folder: Path) -> str:
    """Write all files of a folder into a .zip file in this folder, and return the name of the .zip file."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != ARCHIVE)
    with zipfile.ZipFile(folder / ARCHIVE, "w", zipfile.ZIP_STORED) as file:
        for name in names:
            file.write(folder / name, name)
    return ARCHIVE
