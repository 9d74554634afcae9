"""Check or choose the settings that the processes of a training share: batch, images and runtime."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import torch

from ddim.data import Images, SplitImages
from ddim.diffusion.consistency import Consistency
from ddim.errors import UserError
from ddim.machine.distributed import Processes
from ddim.machine.runtime import Runtime, count_cores
from ddim.recipe.recipe import Recipe
from ddim.runs.folder import record_in_run
from ddim.sampling.pipeline import LoadedRun
from ddim.training.fit import Start
from ddim.training.loop import Training
from ddim.training.start import Machine, estimate_seconds


def check_processes(recipe: Recipe, processes: Processes) -> None:
    """Check that the batch of a recipe can be divided equally among the processes.

    Raises:
        UserError: if the batch cannot be divided equally.
    """
    optim, count = recipe.optim, processes.count
    if optim.batch % (optim.accumulate * count):
        parts = f" times optim.accumulate {optim.accumulate}" if optim.accumulate > 1 else ""
        raise UserError(
            f"optim.batch {optim.batch} must be a multiple of the number of processes {count}{parts}: "
            "change --optim.batch, or the number of processes"
        )


def check_same_images(images: Images, processes: Processes) -> None:
    """Check that all processes have the same images.

    Raises:
        UserError: if the images of another machine are different.
    """
    for rank, fingerprint in enumerate(processes.gather(images.fingerprint)):
        if fingerprint != images.fingerprint:
            raise UserError(
                f"the images of process {rank} differ from those of process {processes.rank}: copy the same "
                "files to every machine, or train from a shared drive"
            )


def check_same_parent(training: Training, parent: LoadedRun | None) -> None:
    """Check that all processes start from the same weights, and learn the same guidance of a teacher.

    Each machine reads its own copy of the parent and of its guide, and of what `ddim search` saved with them.

    Args:
        training: the new training.
        parent: the run whose weights it starts from, if there is one.

    Raises:
        UserError: if those of another machine are different.
    """
    if parent is None:
        return
    loss, guide, processes = (
        training.recipe.objective,
        training.teacher and training.teacher.guide,
        training.processes,
    )
    learned = (loss.guidance, loss.interval) if isinstance(loss, Consistency) else None
    mine = learned, guide and (guide["sha256"], guide["weights"], guide.get("average"))
    for rank, other in enumerate(processes.gather(mine)):
        if other != mine:
            raise UserError(
                f"process {rank} has another guide of {parent.checkpoint.run}, or other saved guidance, than "
                f"process {processes.rank}: copy both runs to every machine, or keep them on a shared drive"
            )


def choose_for_all(machine: Machine, recipe: Recipe, split: SplitImages, processes: Processes) -> Runtime:
    """Return the runtime that process 0 chooses for a run, and that all processes use on their own GPUs.

    Args:
        machine: what the user asks for.
        recipe: the recipe of the run.
        split: the images of the run, split into training and validation images.
        processes: the processes.

    Raises:
        UserError: if the processes of this machine outnumber its GPUs.
    """
    chosen = None
    if processes.leads:
        if processes.count > 1 and machine.threads is None:
            # The other processes would count as other programs.
            machine = replace(machine, threads=count_cores())
        seconds = estimate_seconds(recipe, split, machine.threads) / processes.count
        chosen = machine.choose(recipe, seconds)
    return _assign_gpu(processes.broadcast(chosen), processes)


def _assign_gpu(runtime: Runtime, processes: Processes) -> Runtime:
    """Return the runtime with the device of this process; NCCL refuses two processes on one GPU."""
    if processes.count > 1 and runtime.device.startswith("cuda"):
        gpus = torch.cuda.device_count()
        # A launcher may show each process its own GPU alone.
        own = gpus == 1 and "CUDA_VISIBLE_DEVICES" in os.environ
        if processes.local_count > gpus and not own:
            raise UserError(
                f"{processes.local_count} processes cannot train on {gpus} GPU{'' if gpus == 1 else 's'}: "
                "start one process for each GPU (--nproc-per-node=gpu), or train with --device cpu"
            )
    return replace(runtime, device=processes.assign_device(runtime.device))


def adopt_processes(
    document: dict[str, Any], runtime: Runtime, start: Start, processes: Processes
) -> tuple[Runtime, str]:
    """Return the runtime of a resumed run, and a sentence if the number of processes changed, else "".

    Args:
        document: the content of run.json, in which process 0 records the change.
        runtime: the recorded runtime. If the number of processes changed and the user gave no number of
            threads, the number of threads is chosen again.
        start: how the run is resumed.
        processes: the processes.

    Raises:
        UserError: if the processes of this machine outnumber its GPUs.
    """
    runtime = _assign_gpu(runtime, processes)
    changes = document.get("processes_changed", [])
    before = changes[-1]["to"] if changes else document.get("processes", {"count": 1})
    now = describe_processes(processes, runtime.device)
    if before["count"] == now["count"]:
        return runtime, ""
    if processes.leads:
        record_in_run(start.folder, processes_changed=[*changes, {"from": before, "to": now}])
    if start.adapt:
        runtime = replace(runtime, threads=count_cores())
    return runtime, (
        f"{_say(now['count'])} instead of {before['count']}: the same images and noise, but results "
        "differ in the last bits"
    )


def describe_processes(processes: Processes, device: str) -> dict[str, Any]:
    """Return what run.json says about the processes of a run: their number, and what adds their gradients."""
    backend = "nccl" if device.startswith("cuda") else "gloo"
    return {"count": processes.count, "backend": backend if processes.count > 1 else None}


def _say(count: int) -> str:
    return f"{count} process{'' if count == 1 else 'es'}"
