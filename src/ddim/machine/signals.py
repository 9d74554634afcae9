"""Signals that ask a process to stop: Ctrl-C, SIGTERM, SIGHUP from a closed terminal, Slurm's SIGUSR1."""

import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

STOPS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""The names of the signals that ask a process to stop.

Slurm sends SIGUSR1 some time before it ends a job, if the user asks for it (--signal=USR1@120).
"""


class Stopped(KeyboardInterrupt):
    """A signal asked the process to stop; the exit code is 128 plus the signal's number, as in shells."""

    def __init__(self, number: int, message: str = "stopped") -> None:
        super().__init__(message)
        self.number, self.exit_code = number, 128 + number


def _stop(number: int) -> None:
    raise Stopped(number)


@contextmanager
def stop_on_signals(handler: Callable[[int], None] = _stop) -> Generator[None]:
    """Raise `Stopped` in the block when a signal arrives, so that unfinished files are removed.

    A signal that the process ignores stays ignored, for example under `nohup`. Outside the main thread, where
    Python allows no handlers, nothing is done.

    Args:
        handler: what is called with the number of each signal of `STOPS`, in place of raising `Stopped`.
    """
    main = threading.current_thread() is threading.main_thread()
    kinds = [getattr(signal, name) for name in STOPS if main and hasattr(signal, name)]
    before = {kind: old for kind in kinds if (old := signal.getsignal(kind)) != signal.SIG_IGN}

    def handle(number: int, _frame: object) -> None:
        # When a terminal closes, the shell and the kernel each send SIGHUP. The second must not stop the
        # cleanup.
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        handler(number)

    for kind in before:
        signal.signal(kind, handle)
    try:
        yield
    finally:
        for kind, old in before.items():
            signal.signal(kind, old)


class Noted(BaseException):
    """Ends work that a signal makes useless, because it is repeated when the run is resumed."""


class SignalFlag:
    """The number of the first signal that has arrived in a block of `note_signals`, at first None.

    While `at_once` is set, the first signal raises `Stopped`, because everything is saved.
    """

    number: int | None = None
    at_once = False

    def check(self, *_progress: object) -> None:
        """Raise `Noted` if a signal has arrived; a validation calls this between its sampling steps."""
        if self.number is not None:
            raise Noted


@contextmanager
def note_signals(twice: bool = True) -> Generator[SignalFlag]:
    """Yield a flag that the first signal sets, so that a training can save first; a second raises `Stopped`.

    Args:
        twice: False to ignore a second signal. Under a launcher such as torchrun, Ctrl-C reaches each process
            twice: from the terminal and from the launcher.
    """
    flag = SignalFlag()

    def note(number: int) -> None:
        if flag.at_once:
            _stop(number)
        if flag.number is None:
            flag.number = number
            # The terminal may be gone, and the run must still be saved.
            with suppress(Exception):
                sys.stderr.write(f"saving{'; a second signal stops at once' if twice else ''}\n")
        elif twice:
            _stop(number)

    with stop_on_signals(note):
        yield flag
