"""The processes that torchrun started for one command: who they are, and how they exchange values.

Without torchrun there is one process, and every exchange returns its input.
"""

import itertools
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ddim.errors import Interrupted, explain_error
from ddim.machine.runtime import count_allowed
from ddim.machine.startup import count_launched, read_rank

T = TypeVar("T")

LIMIT = timedelta(seconds=float(os.environ.get("DDIM_PATIENCE", "3600")))
"""How long a process waits for the others at each exchange; then it fails.

One process may work alone for long, for example on the features of a reference.
"""


class OtherProcessFailed(RuntimeError):  # noqa: N818 (an event, not a mistake of this process)
    """Another process of the command failed first; the message and the exit code are those of its error."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Processes:
    """The processes of a command, as one of them sees them.

    Attributes:
        rank: number of this process, from 0.
        count: number of processes.
        local_rank: number of this process on its machine, from 0.
        local_count: number of processes on its machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is process 0, which writes the files and the messages."""
        return self.rank == 0

    def assign_device(self, device: str) -> str:
        """Return the device of this process: with several processes, each has its own GPU of the machine."""
        return "cuda" if self.count > 1 and device.startswith("cuda") else device

    def broadcast(self, value: T | None) -> T:
        """Return the value of process 0; the other processes may give None."""
        values: list[Any] = [value]
        if self.count > 1:
            dist.broadcast_object_list(values, 0)
        return values[0]

    def highest(self, *values: int) -> list[int]:
        """Return, for each value, the maximum over all processes; this does not wait for an accelerator."""
        highest = torch.tensor(values)
        if self.count > 1:
            dist.all_reduce(highest, dist.ReduceOp.MAX)
        return highest.tolist()

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return the items of this process: every `count`-th item, starting with item `rank`."""
        return items[self.rank :: self.count]

    def interleave(self, mine: Sequence[T]) -> list[T]:
        """Return the results of all processes, in the order of the items before `share` divided them."""
        parts: list[Any] = [list(mine)] * self.count
        if self.count > 1:
            dist.all_gather_object(parts, list(mine))
        return [parts[k % self.count][k // self.count] for k in range(sum(map(len, parts)))]

    def local_first(self, work: Callable[[], T]) -> T:
        """Call `work` on the first process of each machine, then on the others; return its result.

        So files that all processes of a machine need, such as decoded images, are written once per machine.
        """
        if self.local_rank:
            self.highest(0)
        result = work()
        if not self.local_rank:
            self.highest(0)
        return result


_joined: list[Processes] = []
"""The processes of each open block of `join_processes` and `act_as`, innermost last."""

_meetings = itertools.count()


def current_processes() -> Processes:
    """Return the processes of the innermost open block of `join_processes`; one process if there is none."""
    return _joined[-1] if _joined else Processes()


@contextmanager
def act_as(processes: Processes) -> Generator[None]:
    """Make `processes` the current ones inside the block; with `Processes()`, this process works alone."""
    _joined.append(processes)
    try:
        yield
    finally:
        _joined.pop()


@contextmanager
def join_processes() -> Generator[Processes]:
    """Join the processes that torchrun started, and yield them; leave them at the end of the block.

    Without torchrun, or inside another such block, nothing is joined. Inside the block, the processes of a
    machine divide its cores, and each has its own GPU.

    Raises:
        OtherProcessFailed: in process 0, if another process failed first.
    """
    if _joined or count_launched() == 1:
        yield current_processes()
        return
    rank, count = read_rank(), count_launched()
    local = int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", count))
    processes, gpus = Processes(rank, count, *local), torch.cuda.device_count()
    store = dist.PrefixStore(str(next(_meetings)), _open_store(rank)[0])
    # gloo exchanges tensors on the CPU, such as the decisions of each step, without waiting for a GPU.
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=LIMIT)
    if gpus:
        torch.cuda.set_device(local[0] % gpus)
    threads, share = torch.get_num_threads(), max(1, count_allowed() // local[1])
    # torchrun sets OMP_NUM_THREADS to 1 if the user has not set it, so one thread is not the user's wish.
    torch.set_num_threads(share if threads == 1 else min(threads, share))
    try:
        with act_as(processes):
            yield processes
            # Nobody leaves while another process still works.
            processes.highest(0)
    except BaseException as error:
        _raise_cause(error, store, rank)
        raise
    finally:
        # torchrun sends all processes a signal when one has ended. It must not replace the error above.
        with suppress(KeyboardInterrupt):
            torch.set_num_threads(threads)
            # gloo's threads need Python's lock to release the tensors of the last exchange, and torch holds
            # this lock while it waits for the threads. This pause lets them finish before.
            time.sleep(0.2)
            dist.destroy_process_group()


@cache
def _open_store(rank: int) -> tuple[dist.Store, dist.Store | None]:
    """Return a key-value store that all processes share, and what process 0 must keep open for it.

    The key-value store is empty after each start of the processes.

    The store of torchrun outlives a restart, and still has the addresses of killed processes. So all keys get
    a new prefix: the port on which process 0 listens.
    """
    store, _, _ = next(dist.rendezvous("env://", timeout=LIMIT))
    host = os.environ["MASTER_ADDR"]
    listening = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False) if rank == 0 else None
    if listening:
        store.set("ddim", str(listening.port))
    while True:
        port = store.get("ddim").decode()
        # If nobody listens, this is the port of a killed process.
        with suppress(RuntimeError):
            dist.TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=2))
            return dist.PrefixStore(port, store), listening
        time.sleep(0.2)


def _raise_cause(error: BaseException, store: dist.Store, rank: int) -> None:
    """Record `error` as the reason why the command fails; in process 0, raise that of an earlier failure.

    If another process has failed, an exchange with it fails here, or torchrun has sent a signal.
    """
    known, mine = explain_error(error), f"process {rank}: "
    ended = isinstance(error, KeyboardInterrupt) and not isinstance(error, Interrupted)
    with suppress(dist.DistError):  # the store may have ended with torchrun
        code = getattr(known, "exit_code", 1)
        code, _, first = store.compare_set("failed", "", f"{code} {mine}{known}").decode().partition(" ")
        if rank == 0 and not first.startswith(mine) and (ended or not hasattr(known, "exit_code")):
            raise OtherProcessFailed(first, int(code)) from error
