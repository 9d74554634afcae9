"""Edit images as `ddim vary`, `interpolate`, `inpaint` and `invert` do; runs in the worker process."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ddim.errors import UserError
from ddim.files import shorten_paths
from ddim.recipe.checks import check_diffusion_model
from ddim.sampling.edits import (
    FILM,
    RECORD,
    STRIP,
    Edit,
    inpaint,
    interpolate,
    invert,
    vary,
)
from ddim.sampling.pipeline import LoadedRun
from ddim.sampling.samples import find_sample
from ddim.web import tasks
from ddim.web.perform_samples import PIPELINES, archive, sample_run
from ddim.web.preview import EditPreview
from ddim.web.repeat import MASK, SAMPLED, edit_call, edit_command, guidance_options, sampling_of
from ddim.web.views import describe_views, write_views
from ddim.web.worker_process import Monitor


def edit_run(task: tasks.EditTask, monitor: Monitor) -> dict[str, Any]:
    """Edit images with a run, as the command `task.kind` does, and return a description of the results.

    The files of the results are written into the folder of the task.

    Raises:
        UserError: if the task cannot be done.
    """
    folder = Path(task.folder)
    try:
        return _edit(task, folder, monitor)
    except UserError as error:
        # The folder is temporary, and its path would not help the user.
        raise UserError(shorten_paths(str(error), folder)) from None


def _edit(task: tasks.EditTask, folder: Path, monitor: Monitor) -> dict[str, Any]:
    pipeline, start = PIPELINES.open(task.run), time.monotonic()
    # The edit checks this too, but seeds would be sampled before.
    check_diffusion_model(pipeline.recipe, "an edit needs")
    files = _write_inputs(task, folder, pipeline, monitor)
    preview = EditPreview(pipeline, monitor, 0 if task.kind == "interpolate" else task.seed)
    edit = _choose_edit(task, files, folder / MASK)(
        pipeline,
        steps=task.steps,
        fields=task.fields,
        progress=preview.progress,
        watch=preview.watch if task.previews else None,
        **guidance_options(task),
    )
    edit.save(folder)
    names = [file.relative_to(folder).as_posix() for file in files]
    stored = archive(folder)
    return {
        "images": _list_images(task, edit, folder, pipeline),
        "sheet": STRIP,
        "film": FILM if task.kind == "interpolate" else None,
        "record": RECORD,
        "archive": stored,
        "nfe": edit.calls,
        "seconds": round(time.monotonic() - start, 3),
        "command": edit_command(task, names),
        "python": edit_call(task, names),
        "notes": [*describe_views(pipeline), *(shorten_paths(note, folder) for note in edit.notes)],
    }


def _write_inputs(task: tasks.EditTask, folder: Path, pipeline: LoadedRun, monitor: Monitor) -> list[Path]:
    """Write the images that the edit starts from into the folder of the task, and return their paths.

    Uploads and the mask are copied, so that the archive of the result contains them; the path of the mask is
    not returned. Seeds are sampled, as `ddim sample` does. An interpolation between seeds writes no images.
    """
    files = []
    for k, upload in enumerate(task.images):
        files.append(folder / f"upload-{k}")
        shutil.copyfile(upload, files[-1])
    if task.mask is not None:
        shutil.copyfile(task.mask, folder / MASK)
    if task.seeds and task.kind != "interpolate":
        sample_run(sampling_of(task, folder / SAMPLED), monitor)
        files += [find_sample(folder / SAMPLED, seed, pipeline) for seed in task.seeds]
    return files


def _choose_edit(task: tasks.EditTask, files: Sequence[Path], mask: Path) -> Callable[..., Edit]:
    """Return the function that makes the edit of a task; an interpolation between seeds needs no files."""
    if task.kind == "interpolate":
        seeds = None if files else task.seeds
        return lambda run, **options: interpolate(run, *files, seeds=seeds, frames=task.n, **options)
    if task.kind == "invert":
        return lambda run, **options: invert(run, *files, exact=task.exact, **options)
    if task.kind == "inpaint":
        return partial(inpaint, image=files[0], mask=mask, seeds=_seeds(task), resample=task.resample)
    return partial(vary, image=files[0], strength=task.strength, seeds=_seeds(task))


def _seeds(task: tasks.EditTask) -> range:
    return range(task.seed, task.seed + task.n)


def _list_images(task: tasks.EditTask, edit: Edit, folder: Path, pipeline: LoadedRun) -> list[dict[str, Any]]:
    """Return the images of the result. For an inversion, the inputs come first, resized to the run's size."""
    rows = ["input", "restored"] if task.kind == "invert" else list(edit.rows)[-1:]
    views = write_views([folder / name for row in rows for name in edit.name_files(row)], pipeline)
    if task.kind in ("vary", "inpaint"):
        return [{**view, "seed": seed} for view, seed in zip(views, _seeds(task), strict=True)]
    return [dict(view) for view in views]
