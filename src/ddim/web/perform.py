"""Do the tasks of the server with the same functions as the commands; runs in the worker process."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from ddim.web import tasks
from ddim.web.explain import explain_recipe, list_choices
from ddim.web.perform_edits import edit_run
from ddim.web.perform_pages import (
    check_request,
    check_upload,
    compare_runs,
    describe_data,
    write_sweep_report,
)
from ddim.web.perform_samples import sample_run
from ddim.web.worker_process import Monitor

_WORK: dict[type[tasks.Task], Callable[[Any, Monitor], dict[str, Any]]] = {
    tasks.SampleTask: sample_run,
    tasks.EditTask: edit_run,
    tasks.UploadTask: check_upload,
    tasks.DataTask: describe_data,
    tasks.ReportTask: write_sweep_report,
    tasks.CompareTask: compare_runs,
    tasks.TrainingTask: check_request,
    tasks.RecipeTask: explain_recipe,
    tasks.ChoicesTask: list_choices,
}


def perform_task(task: tasks.Task, monitor: Monitor) -> dict[str, Any]:
    """Return the result of a task, as a dictionary that JSON can express.

    Raises:
        UserError: if the task cannot be done.
        Cancelled: if the server cancelled it.
    """
    monitor.check()
    return _WORK[type(task)](task, monitor)


def set_memory_limit() -> None:
    """Limit the memory of this process to that of the machine, so that a larger allocation raises an error.

    Without the limit the system would kill the whole process. A recipe from somebody else can contain a
    network of any size. With CUDA, or on a system that has no such limit or refuses it, no limit is set.
    """
    if torch.cuda.is_available() or not hasattr(os, "sysconf"):
        return
    import resource

    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # macOS accepts no limit below its address space, which is hundreds of GiB at the start.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (total, resource.getrlimit(resource.RLIMIT_DATA)[1]))
