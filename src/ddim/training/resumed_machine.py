"""Fit the recorded runtime of a resumed run to this machine, which may be another one than before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ddim.errors import format_count
from ddim.files.documents import read_sealed
from ddim.files.locks import lock_folder
from ddim.nn.compilers import can_compile
from ddim.nn.processes import Processes
from ddim.nn.runtime import Runtime
from ddim.runs.folder import RUN, record_in_run
from ddim.training.fit import Start
from ddim.training.shared_settings import adopt_processes
from ddim.training.start import Machine


def record_machine(folder: Path, machine: Machine) -> None:
    """Record the number of threads that the user gives when a run is resumed; it is fixed from then on."""
    if machine.threads is None:
        return
    with lock_folder(folder):
        asked = read_sealed(folder / RUN)["asked"]
        if asked["threads"] != machine.threads:
            record_in_run(folder, asked={**asked, "threads": machine.threads})


def adopt_machine(
    document: dict[str, Any], recorded: Runtime, start: Start, processes: Processes
) -> tuple[Runtime, list[str]]:
    """Return the runtime of a resumed run on this machine, and a sentence about each change.

    Args:
        document: the content of run.json; the number of threads that the user has fixed is used.
        recorded: the recorded runtime.
        start: how the run is resumed.
        processes: the processes. If the machine of one of them cannot compile, none compiles.

    Raises:
        UserError: if the processes of this machine outnumber its GPUs.
    """
    runtime, shared = adopt_processes(document, recorded, start, processes)
    news = [shared] if shared else []
    threads, fixed = runtime.threads, document["asked"]["threads"]
    if fixed is not None and fixed != threads:
        runtime = replace(runtime, threads=fixed)
        news.append(f"{format_count(fixed, 'thread')} instead of {threads} from here on")
    if runtime.compile and processes.highest(not can_compile(runtime.device))[0]:
        runtime = replace(runtime, compile=False)
        news.append(
            "not compiled from here on, because torch cannot compile on this machine: the same images and "
            "noise, but training is slower, and results differ in the last bits"
        )
    return runtime, news
