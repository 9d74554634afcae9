"""Describe images, compare evaluations and write reports; runs in the worker process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddim.data import open_images
from ddim.data.decode import UnusableError, decode_image, hide_warnings, read_header
from ddim.errors import UserError
from ddim.evaluation.compare import Cell, compare
from ddim.evaluation.image_summary import draw_images, summarise_images
from ddim.experiments.report import report
from ddim.machine.progress import watch_reading
from ddim.plots.pictures import enlarge, save_png
from ddim.training.request import choose_recipe
from ddim.web import tasks
from ddim.web.worker_process import Monitor

MOST = 1000
"""The largest number of rejected files and of duplicates that an answer lists."""


def check_upload(task: tasks.UploadTask, _monitor: Monitor) -> dict[str, Any]:
    """Check that an uploaded image can be decoded, and return its width and height.

    Raises:
        UserError: if the image cannot be used.
    """
    try:
        data = Path(task.file).read_bytes()
        with hide_warnings():
            header = read_header(data)
            channels = 3 if header.values == "uint8" else header.channels
            decode_image(data, (64, 64), channels, header.values)
    except UnusableError as error:
        raise UserError(f"this image cannot be used: {error}") from None
    return {"width": header.width, "height": header.height}


def describe_data(task: tasks.DataTask, monitor: Monitor) -> dict[str, Any]:
    """Describe the images of a source as `ddim data` does, and write a sheet of them."""
    size = (task.size[0], task.size[1])
    images = open_images(task.source, size, progress=watch_reading(lambda *_: monitor.check()))
    found = summarise_images(task.source, images)
    save_png(Path(task.sheet), enlarge(draw_images(images)))
    pairs = [[group[0], other] for group in found["duplicates"] for other in group[1:]]
    return {
        "images": found["images"],
        "size": list(size),
        "classes": [{"name": name, "count": count} for name, count in (found["classes"] or {}).items()],
        "rejects": found["rejected"][:MOST],
        "duplicates": pairs[:MOST],
    }


def write_sweep_report(task: tasks.ReportTask, _monitor: Monitor) -> dict[str, Any]:
    """Write the report on the runs in a folder."""
    report(task.folder, out=task.out)
    return {}


def compare_runs(task: tasks.CompareTask, _monitor: Monitor) -> dict[str, Any]:
    """Compare the evaluation of the first run with that of each other run; see `ddim.compare`."""
    comparison = compare(task.records, metric=task.metric)
    # The rows are sorted; evaluations are known by their folders.
    return {
        "rows": [_describe_rank(cell, comparison.metric) for cell in comparison.cells],
        "differs": comparison.choices,
    }


def _describe_rank(cell: Cell, metric: str) -> dict[str, Any]:
    low, high = cell.evaluation.interval(metric) or (None, None)
    return {
        "folder": str(cell.evaluation.folder),
        "value": cell.evaluation.value(metric),
        "low": low,
        "high": high,
        "distinguishable": cell.difference and str(cell.difference),
        "unranked": cell.unranked,
    }


def check_request(task: tasks.TrainingTask, _monitor: Monitor) -> dict[str, Any]:
    """Check that a training can start with these fields, and return the name of its recipe.

    Raises:
        UserError: if the recipe or a field cannot be used.
    """
    recipe = choose_recipe(task.recipe, task.fields.get("data.source"), task.fields)
    return {"recipe": recipe.name}
