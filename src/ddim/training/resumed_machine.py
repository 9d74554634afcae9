"""Fit the recorded runtime of a resumed run to this machine, which may be another one than before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ddim.nn.compilers import can_compile
from ddim.nn.processes import Processes
from ddim.nn.runtime import Runtime
from ddim.training.fit import Start
from ddim.training.shared_settings import adopt_processes


def adopt_machine(
    document: dict[str, Any], recorded: Runtime, start: Start, processes: Processes
) -> tuple[Runtime, list[str]]:
    """Return the runtime of a resumed run on this machine, and a sentence about each change.

    Args:
        document: the content of run.json.
        recorded: the recorded runtime.
        start: how the run is resumed.
        processes: the processes. If the machine of one of them cannot compile, none compiles.

    Raises:
        UserError: if the processes of this machine outnumber its GPUs.
    """
    runtime, shared = adopt_processes(document, recorded, start, processes)
    news = [shared] if shared else []
    if runtime.compile and processes.highest(not can_compile(runtime.device))[0]:
        runtime = replace(runtime, compile=False)
        news.append(
            "not compiled from here on, because torch cannot compile on this machine: the same images and "
            "noise, but training is slower, and results differ in the last bits"
        )
    return runtime, news
