"""Fit the recorded runtime of a resumed run to this machine, which may be another one than before."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddim.errors import UserError, format_count
from ddim.files import lock_folder, read_sealed
from ddim.machine.distributed import Processes
from ddim.machine.runtime import Runtime, count_allowed, find_device
from ddim.runs.folder import RUN, record_in_run
from ddim.training.fit import Start
from ddim.training.shared_settings import adopt_processes
from ddim.training.start import Machine


def record_machine(folder: Path, machine: Machine) -> None:
    """Record the device and the number of threads that the user gives when a run is resumed.

    The run then uses this device, and the number of threads is fixed from then on.
    """
    options = {"device": machine.device, "threads": machine.threads}
    given = {name: value for name, value in options.items() if value not in ("auto", None)}
    if not given:
        return
    with lock_folder(folder):
        asked = read_sealed(folder / RUN)["asked"]
        if {**asked, **given} != asked:
            record_in_run(folder, asked={**asked, **given})


def adopt_machine(
    document: dict[str, Any], recorded: Runtime, start: Start, processes: Processes
) -> tuple[Runtime, list[str]]:
    """Return the runtime of a resumed run on this machine, and a sentence about each change.

    Args:
        document: the content of run.json; the device and the number of threads that the user gave are used.
        recorded: the recorded runtime. If the user gave no number of threads, there is at most one for each
            core of this machine.
        start: how the run is resumed.
        processes: the processes.

    Raises:
        UserError: if this machine lacks the type of device, or its processes outnumber its GPUs.
    """
    asked, before = document["asked"], processes.assign_device(recorded.device)
    wanted = before if asked["device"] == "auto" else processes.assign_device(asked["device"])
    device = _find_alike(wanted, start.folder)
    runtime, shared = adopt_processes(document, replace(recorded, device=device), start, processes)
    news = [shared] if shared else []
    if device != before:
        news.append(f"{device} instead of {before} from here on")
    threads = asked["threads"] or min(runtime.threads, max(1, count_allowed() // processes.local_count))
    if threads != runtime.threads:
        news.append(f"{format_count(threads, 'thread')} instead of {runtime.threads} from here on")
        runtime = replace(runtime, threads=threads)
    return runtime, news


def _find_alike(wanted: str, folder: Path) -> str:
    """Return the device `wanted`; if this machine lacks it, the current device of the same type.

    Raises:
        UserError: if this machine has no device of this type.
    """
    kind = wanted.split(":", maxsplit=1)[0]
    for device in (wanted, kind):
        with suppress(UserError):
            return find_device(device)
    raise UserError(
        f"run {folder} was trained on {kind}, which this machine lacks: resume it on a machine with {kind}, "
        "or start a new run from its weights with source= or --from"
    )
