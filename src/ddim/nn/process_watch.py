"""Notice when a process of a command fails, freezes or is killed, and say so once.

Every second, a thread of each process raises a counter in a key-value store. If a counter stands still, its
process is frozen or gone.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import TypeVar

from torch.distributed import PrefixStore, TCPStore

from ddim.errors import OtherProcessFailed, ProcessGone, UserError, escape
from ddim.nn.meeting import Meeting

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds after which a process that gives no sign of life counts as frozen; see `read_patience`."""

EVERY = 1.0
"""Seconds between two signs of life."""

GRACE = 3.0
"""Seconds that a process has to end by itself after another process has failed."""

READ_WITHIN = 10.0
"""The longest time, in seconds, that process 0 waits for the others to read why the command fails."""

LEFT = "left"


def read_patience() -> float:
    """Return the seconds in the environment variable DDIM_PATIENCE, or `PATIENCE` if it is not set.

    Raises:
        UserError: if the variable is not a positive number.
    """
    text = os.environ.get("DDIM_PATIENCE", str(PATIENCE))
    with suppress(ValueError):
        if (seconds := float(text)) > 0:
            return seconds
    raise UserError(f"DDIM_PATIENCE must be a number of seconds above 0, got {text!r}")


class ProcessWatch:
    """Notices when another process of a command fails or gives no sign of life, and then ends this process.

    A thread writes and reads the signs of life in a store that all processes share. Process 0 watches all
    others, and each other process watches process 0.

    Args:
        rank: number of this process.
        count: number of processes.
        meeting: the place where the processes met, which holds the store.
    """

    def __init__(self, rank: int, count: int, meeting: Meeting) -> None:
        self.rank, self.count, self.patience = rank, count, read_patience()
        # The thread has a connection of its own, because a connection serves one call at a time.
        own, limit = meeting.store, timedelta(seconds=self.patience)
        self._store = PrefixStore(
            meeting.prefix, TCPStore(own.host, own.port, is_master=False, timeout=limit)
        )
        self._stopped, self._parent = threading.Event(), os.getppid()
        self._names = [f"process {rank} (on {socket.gethostname()}, pid {os.getpid()})"]
        self._store.set(f"where/{rank}", self._names[0])
        self._store.set(f"beat/{rank}", "0")
        self._names = [self._store.get(f"where/{other}").decode() for other in range(count)]
        self._rounds = self._calls = 0
        self._known: OtherProcessFailed | None = None
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._run, self._guard)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the watch; the other processes then no longer expect signs of life from this one."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        with suppress(RuntimeError):
            self._store.set(f"beat/{self.rank}", LEFT)

    def take_turns(self, work: Callable[[], T], first: bool, place: str) -> T:
        """Call `work` after the first process of this machine has called it; return the result of `work`.

        Args:
            work: the function to call.
            first: whether this process is the first of its machine.
            place: a name that identifies the machine and the work.
        """
        key = f"turn/{place}"
        if first:
            try:
                return work()
            finally:
                self._store.set(key, "done")
        while not self._store.check([key]):
            time.sleep(0.2)
        return work()

    def wait_for_all(self) -> None:
        """Wait until all processes have called this method equally often; each of them may take any time.

        Raises:
            OtherProcessFailed: if another process fails.
            RuntimeError: if process 0 has ended.
        """
        self._calls, pause = self._calls + 1, 0.001
        self._store.add("arrived", 1)
        while self._store.add("arrived", 0) < self._calls * self.count:
            if (found := self.failure()) is not None:
                raise found
            time.sleep(pause)
            pause = min(0.05, 2 * pause)

    def report(self, sentence: str, exit_code: int) -> bool:
        """Tell the other processes why this process ends; return whether this one prints the message."""
        mine = json.dumps([self.rank, sentence, exit_code])
        try:
            first = self._store.compare_set("failed", "", mine).decode() == mine
            if first:
                self._store.set(f"read/{self.rank}", "")
            else:
                self.failure()
        except RuntimeError:
            # Process 0, which holds the store, has ended. If it ended without a report, process 1 prints the
            # message.
            return self.rank == 1 and self._known is None
        with suppress(KeyboardInterrupt, RuntimeError):
            if self.rank == 0:
                self._wait_for_readers()
            elif not first:
                # torchrun ends all processes when one has ended. So let the first one print its message.
                time.sleep(2 * EVERY)
        return first

    def explain(self, error: BaseException) -> BaseException:
        """Return the reason why an exchange failed: an error of another process, or `error` if none is known.

        This waits up to `GRACE` seconds for the other processes to report.
        """
        try:
            self._store.set(f"down/{self.rank}", "")
            before, end = self._signs(), time.monotonic() + GRACE
            while time.monotonic() < end:
                if (found := self.failure()) is not None:
                    return found
                if self._store.check([f"down/{rank}" for rank in range(self.count)]):
                    return error
                # torchrun interrupts all processes when one has ended. The report may still arrive, so go on.
                with suppress(KeyboardInterrupt):
                    time.sleep(0.1)
            silent = [
                self._names[rank]
                for rank, sign in self._signs().items()
                if sign == before[rank] and not self._store.check([f"down/{rank}"])
            ]
        except RuntimeError:
            if self._known is not None:
                return self._known
            silent = [self._names[0]]
        return ProcessGone(_say_gone(silent)) if silent else error

    def failure(self) -> OtherProcessFailed | None:
        """Return the first reported failure; None if there is no failure, or this process reported it.

        The failure is kept, because process 0 may end, and the store with it, before the next call.

        Raises:
            RuntimeError: if process 0 has ended, and no failure was read before.
        """
        if self._known is None and self._store.check(["failed"]):
            rank, sentence, code = json.loads(self._store.get("failed"))
            if rank != self.rank:
                self._known = OtherProcessFailed(f"{self._names[rank]} failed: {sentence}", code)
                self._store.set(f"read/{self.rank}", "")
        return self._known

    def _wait_for_readers(self) -> None:
        """Wait until all processes have read the report, because the store ends with process 0.

        A frozen process never reads the report. The wait is at most half of `patience`, because the thread
        that gives the signs of life may call this method.
        """
        end = time.monotonic() + min(READ_WITHIN, self.patience / 2)
        keys = [f"read/{rank}" for rank in range(self.count)]
        while time.monotonic() < end and not self._store.check(keys):
            time.sleep(0.1)

    def _run(self) -> None:
        seen: dict[int, tuple[str, int]] = {}
        try:
            while not self._stopped.wait(EVERY):
                self._rounds += 1
                self._store.set(f"beat/{self.rank}", str(self._rounds))
                self._look(seen)
                if self._parent != os.getppid():
                    # The launcher was killed. End as after its SIGTERM, so that a training is saved.
                    self._parent = os.getppid()
                    os.kill(os.getpid(), signal.SIGTERM)
        except RuntimeError:
            # Process 0, which holds the store, is gone or frozen. The main thread may have noticed this too,
            # so give it time to end this process with its own error.
            if not self._stopped.wait(2 * GRACE):
                self._end(_say_gone(self._names[:1]), say=self.rank == 1 and self._known is None)

    def _guard(self) -> None:
        """End this process if process 0 is frozen.

        Process 0 holds the store. If it is frozen, `_run` waits for an answer of the store, and `_rounds`
        does not grow.
        """
        before, looks = -1, 0
        while not self._stopped.wait(EVERY):
            looks = looks + 1 if self._rounds == before else 0
            before = self._rounds
            if looks * EVERY >= self.patience:
                self._end(f"{self._names[0]} has not answered for {self.patience:g} s", say=self.rank == 1)

    def _look(self, seen: dict[int, tuple[str, int]]) -> None:
        """End this process if another process failed, or has given no sign of life for too long."""
        if self.failure() is not None:
            # The main thread fails at its next exchange with the failed process, and closes this watch.
            # Inside an exchange it may wait forever, so after some seconds this thread ends the process.
            if not self._stopped.wait(GRACE):
                self._end("", say=False)
            return
        for rank, sign in self._signs().items():
            before, looks = seen.get(rank, ("", 0))
            # This counts checks and not seconds. So it is no failure if the whole machine was paused.
            seen[rank] = sign, looks + 1 if sign == before else 0
            if sign != LEFT and seen[rank][1] * EVERY >= self.patience:
                sentence = f"{self._names[rank]} has not answered for {self.patience:g} s"
                self._end(sentence, say=self.report(sentence, 1))

    def _end(self, sentence: str, say: bool) -> None:
        """End this process, whose main thread waits for another process; print `sentence` if `say` is set."""
        if say:
            with suppress(OSError):
                (sys.__stderr__ or sys.stderr).write(f"ddim: {escape(sentence)}\n")
                (sys.__stderr__ or sys.stderr).flush()
        os._exit(1)

    def _signs(self) -> dict[int, str]:
        """Return the last sign of life of each process that this one watches."""
        ranks = range(1, self.count) if self.rank == 0 else [0]
        return {rank: self._store.get(f"beat/{rank}").decode() for rank in ranks}


def _say_gone(names: list[str]) -> str:
    return f"{' and '.join(names)} ended without an error message, because of a kill or a full memory"
