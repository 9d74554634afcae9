"""The processes that torchrun started for one command: who they are, and how they exchange values.

Without torchrun there is one process, and every exchange returns its input.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ddim.errors import OtherProcessFailed, UserError
from ddim.nn.cores import count_physical
from ddim.nn.launch import count_launched, read_rank
from ddim.nn.meeting import meet
from ddim.nn.process_watch import ProcessWatch

T = TypeVar("T")

EXCHANGE_LIMIT = timedelta(minutes=30)
"""The longest time that tensors may take to be exchanged. `ProcessWatch` finds a frozen process sooner."""


@dataclass(frozen=True)
class Processes:
    """The processes of a command, as one of them sees them.

    Attributes:
        rank: number of this process, from 0.
        count: number of processes.
        local_rank: number of this process on its machine, from 0.
        local_count: number of processes on its machine.
        watch: notices when another process fails; None for one process.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    watch: ProcessWatch | None = field(default=None, repr=False, compare=False)

    @property
    def leads(self) -> bool:
        """Whether this is process 0, which writes the files and the messages."""
        return self.rank == 0

    def own_device(self, device: str) -> str:
        """Return the device of this process: with several processes, each has its own GPU of the machine."""
        return "cuda" if self.count > 1 and device.startswith("cuda") else device

    def broadcast(self, value: T | None) -> T:
        """Return the value of process 0; the other processes may give None.

        As in `gather`, all processes wait for each other as long as they give signs of life.
        """
        values: list[Any] = [value if self.leads else None]
        if self.watch is None:
            return values[0]
        self.watch.wait_for_all()
        dist.broadcast_object_list(values, 0)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank."""
        if self.watch is None:
            return [value]
        # A process may work alone for hours, for example on the features of a reference.
        self.watch.wait_for_all()
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def backend(self, device: str) -> str | None:
        """Return what adds tensors on a device, such as "gloo"; None if nothing does."""
        if self.count == 1:
            return None
        # For example "cpu:gloo,cuda:nccl".
        backends = dict(pair.split(":") for pair in dist.get_backend_config().split(","))
        return backends.get(device.partition(":")[0])

    def highest(self, *values: int) -> list[int]:
        """Return, for each value, the maximum over all processes; this does not wait for an accelerator."""
        if self.count == 1:
            return list(values)
        found = torch.tensor(values)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return found.tolist()

    def add(self, x: Tensor) -> Tensor:
        """Add the tensors of all processes, in place, and return the sum."""
        if self.count > 1:
            dist.all_reduce(x)
        return x

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return the items of this process: every `count`-th item, starting with item `rank`."""
        return items[self.rank :: self.count]

    def interleave(self, mine: Sequence[T]) -> list[T]:
        """Return the results of all processes, in the order of the items before `share` divided them."""
        if self.count == 1:
            return list(mine)
        parts = self.gather(list(mine))
        return [parts[k % self.count][k // self.count] for k in range(sum(map(len, parts)))]

    def local_first(self, name: str, work: Callable[[], T]) -> T:
        """Call `work` on the first process of each machine, then on the others; return its result.

        So files that all processes of a machine need, such as decoded images, are written once per machine.
        The other processes wait as long as the first one gives signs of life.

        Args:
            name: a name for the work that differs from the names of all other work of the command.
            work: the function to call.
        """
        if self.watch is None:
            return work()
        machine = os.environ.get("GROUP_RANK", socket.gethostname())
        return self.watch.take_turns(work, self.local_rank == 0, f"{name}/{machine}")


MEETING_LIMIT = timedelta(minutes=10)
"""The longest time that a process waits for the others to start."""

_joined: list[Processes] = []
"""The processes of each open block of `join_processes` and `run_alone`, innermost last."""


def current_processes() -> Processes:
    """Return the processes of the innermost open block of `join_processes`; one process if there is none."""
    return _joined[-1] if _joined else Processes()


@contextmanager
def join_processes() -> Generator[Processes]:
    """Join the processes that torchrun started, and yield them; leave them at the end of the block.

    If an error ends the block, all processes end: the process that failed first with its error, the others
    with `OtherProcessFailed`. Without torchrun, or inside another such block, nothing is joined.

    Inside the block, the processes of a machine divide its cores: see `_divide_cores`.

    Raises:
        UserError: if a process has not started within `MEETING_LIMIT`, or the script has created a process
            group that cannot exchange tensors of the CPU.
        OtherProcessFailed: if another process failed first.
        ProcessGone: if another process ended without an error of its own.
    """
    if _joined or count_launched() == 1:
        yield current_processes()
        return
    given, rank, count = _has_group(), read_rank(), count_launched()
    meeting = meet(rank, count, MEETING_LIMIT)
    if not given:
        # gloo exchanges tensors on the CPU, such as the decisions of each step, without waiting for a GPU.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        own = dist.PrefixStore(f"{meeting.prefix}/group", meeting.store)
        dist.init_process_group(backend, store=own, rank=rank, world_size=count, timeout=EXCHANGE_LIMIT)
    local = int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", count))
    before = None
    if torch.cuda.is_available():
        before = torch.cuda.current_device()
        torch.cuda.set_device(local[0] % torch.cuda.device_count())
    watch, threads = ProcessWatch(rank, count, meeting), torch.get_num_threads()
    torch.set_num_threads(_divide_cores(local[1], threads))
    _joined.append(Processes(rank, count, *local, watch))
    try:
        yield _joined[-1]
        watch.wait_for_all()
        # The store ends with process 0, so process 0 waits here until the others no longer need it.
        dist.barrier()
    except BaseException as error:
        shared = _share_failure(watch, error)
        if shared is error:
            raise
        raise shared from error
    finally:
        _joined.pop()
        # torchrun sends all processes a signal when one has ended. The signal must not replace the error
        # above.
        with suppress(KeyboardInterrupt):
            watch.close()
            torch.set_num_threads(threads)
            if before is not None:
                torch.cuda.set_device(before)
            if not given:
                # Threads of gloo need Python's global lock to release the tensors of the last exchange. But
                # torch holds the lock while it destroys the group and waits for these threads. This pause
                # gives them time to finish before.
                time.sleep(0.2)
                dist.destroy_process_group()


@contextmanager
def run_alone() -> Generator[None]:
    """Let this process work alone inside the block: nothing is shared with other processes."""
    _joined.append(Processes())
    try:
        yield
    finally:
        _joined.pop()


def _has_group() -> bool:
    """Return whether the caller has created a process group.

    Raises:
        UserError: if this group cannot exchange tensors of the CPU.
    """
    given = dist.is_initialized()
    if given and "cpu:" not in (backend := dist.get_backend_config()):
        raise UserError(
            f"the process group of this script must also exchange tensors of the CPU, got {backend}: create "
            'it with torch.distributed.init_process_group("cpu:gloo,cuda:nccl"), or leave this to ddim'
        )
    return given


def _divide_cores(local_count: int, threads: int) -> int:
    """Return the number of torch's threads of each of the `local_count` processes of a machine.

    Args:
        local_count: the number of processes, which divide the cores that they may use.
        threads: the present number of torch's threads. If it is larger than 1, the result is not larger.
            torchrun sets OMP_NUM_THREADS to 1 if the user has not set it, so 1 is not the user's wish.
    """
    if local_count == 1:
        return threads
    share = max(1, count_physical() // local_count)
    return share if threads == 1 else min(threads, share)


def _share_failure(watch: ProcessWatch, error: BaseException) -> BaseException:
    """Report the error that ends this process, and return the error with which it should end."""
    if isinstance(error, OtherProcessFailed):
        return error
    failed = isinstance(error, RuntimeError) and not hasattr(error, "exit_code")
    if failed or isinstance(error, KeyboardInterrupt):
        # torchrun sends this process a signal when another one has ended. It may arrive during `explain`.
        try:
            error = watch.explain(error)
        except KeyboardInterrupt:
            error = watch.explain(error)
        if isinstance(error, OtherProcessFailed):
            return error
    code = getattr(error, "exit_code", 1)
    sentence = " ".join(str(error).split())
    if watch.report(sentence, code):
        return error
    with suppress(RuntimeError):
        return watch.failure() or error
    return OtherProcessFailed("process 0 is gone", code)
