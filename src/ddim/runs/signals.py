"""Signals that ask a process to stop: Ctrl-C, SIGTERM, SIGHUP from a closed terminal, Slurm's SIGUSR1.

A command is stopped by an exception, `Stopped`. A training finishes only what must not be interrupted, saves
a checkpoint, and then stops; see `note_interrupts`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

STOPS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""The names of the signals that ask a process to stop.

Slurm sends SIGUSR1 some time before it ends a job, if the user asks for it (--signal=USR1@120).
"""

IMPORT_PATIENCE = 8.0
"""Seconds that a signal waits at most for the end of an import during which it arrives."""

_COMPILERS = {"g++", "c++", "cc1plus", "as", "collect2", "ld", "clang", "clang++"}


class Stopped(KeyboardInterrupt):
    """A signal asked the process to stop; the exit code is 128 plus the signal's number, as in shells."""

    def __init__(self, number: int, message: str = "stopped") -> None:
        super().__init__(message)
        self.number, self.exit_code = number, 128 + number


class _BlockStopped(BaseException):
    """Ends a block of `Interrupts.at_once`. torch would catch a subclass of `Exception`."""


@contextmanager
def handle_signals(handler: Callable[[int], None]) -> Generator[Callable[[], None]]:
    """Call `handler` with the number of each signal of `STOPS` that arrives inside the block.

    The earlier handlers are restored at the end of the block, or earlier if the yielded function is called. A
    signal that the process already ignores stays ignored, for example under `nohup`. Signals that this system
    does not have are skipped. Outside the main thread, where Python allows no handlers, nothing is done.
    """
    main = threading.current_thread() is threading.main_thread()
    kinds = [getattr(signal, name) for name in STOPS if main and hasattr(signal, name)]
    before = {kind: old for kind in kinds if (old := signal.getsignal(kind)) != signal.SIG_IGN}

    def restore() -> None:
        for kind, old in before.items():
            signal.signal(kind, old)

    # The code that called may itself run in an import.
    outside = _count_imports(sys._getframe())
    waiting: dict[int, float] = {}

    def deliver(number: int, frame: FrameType | None) -> None:
        latest = waiting.setdefault(number, time.monotonic() + IMPORT_PATIENCE)
        importing = _count_imports(frame) > outside and time.monotonic() < latest
        if not (importing and _call_soon(lambda now: number in waiting and deliver(number, now))):
            del waiting[number]
            handler(number)

    for kind in before:
        signal.signal(kind, deliver)
    try:
        yield restore
    finally:
        restore()
        late = list(waiting)
        waiting.clear()
        for number in late:
            signal.raise_signal(number)


def _count_imports(frame: FrameType | None) -> int:
    """Return the number of imports that are running in `frame` and in the frames that called it."""
    count = 0
    while frame is not None:
        count += frame.f_code.co_filename == "<frozen importlib._bootstrap>"
        frame = frame.f_back
    return count


def _call_soon(function: Callable[[FrameType | None], object]) -> bool:
    """Call `function` after 0.05 s, with the frame that runs then; return False on systems without timers.

    The timer is a signal. A thread would need locks, which the interrupted code may hold.
    """
    if not hasattr(signal, "setitimer"):
        return False

    def call(_number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGALRM, before)
        function(frame)

    before = signal.signal(signal.SIGALRM, call)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    return True


@contextmanager
def stop_on_signals() -> Generator[None]:
    """Raise `Stopped` in the block when a signal of `STOPS` arrives, so that unfinished files are removed."""

    def stop(number: int) -> None:
        _ignore_hangups()
        _stop_compilers()
        raise Stopped(number)

    with handle_signals(stop), _raise_again(Stopped):
        yield


class Interrupts:
    """Notes the first signal that arrives. In a `with` block of `at_once`, the signal also ends the block.

    Attributes:
        twice: whether a second signal stops the process immediately. The message to the user depends on this.
        number: the number of the first signal; None if no signal has arrived.
        inside: whether the code is inside a block of `at_once` now.
    """

    def __init__(self, twice: bool = True) -> None:
        self.twice = twice
        self.number: int | None = None
        self.inside = False
        self._quiet = ExitStack()

    @contextmanager
    def at_once(self) -> Generator[None]:
        """Run a block that ends immediately when a signal arrives; wrap it in `suppress(Interrupts.ended)`.

        If a signal has arrived before, the block does not run. If an error follows the signal, the error
        counts as an effect of the signal. For example, Ctrl-C also reaches the processes of the compiler, and
        torch reports that they failed.
        """
        self.inside = True
        try:
            if self.number is not None:
                raise _BlockStopped
            with _raise_again(_BlockStopped):
                yield
        except Exception as error:
            if self.number is None:
                raise
            raise _BlockStopped from error
        finally:
            self.inside = False
            self._quiet.close()

    ended = _BlockStopped

    def note(self, number: int) -> None:
        """Remember the signal. If it arrived in a block `with at_once()`, leave this block now."""
        self.number = number
        # If the signal interrupted another write to stderr, this write may fail. The run must still be saved.
        with suppress(Exception):
            sys.stderr.write(f"saving{'; a second signal stops at once' if self.twice else ''}\n")
        if self.inside:
            _stop_compilers()
            # torch's compiler warns of errors in backward passes, with a traceback; here, of this exception.
            self._quiet.enter_context(warnings.catch_warnings(action="ignore"))
            raise _BlockStopped


@contextmanager
def note_interrupts(twice: bool = True) -> Generator[Interrupts]:
    """Yield `Interrupts` that note the first signal of `STOPS`.

    Args:
        twice: whether the second signal has its usual effect. Use False under a launcher such as torchrun:
            there, Ctrl-C reaches each process twice, from the terminal and from the launcher.
    """
    interrupts = Interrupts(twice)

    def note(number: int) -> None:
        if twice:
            restore()
        _ignore_hangups()
        if interrupts.number is None:
            interrupts.note(number)

    with handle_signals(note) as restore:
        yield interrupts


@contextmanager
def _raise_again(kind: type[BaseException]) -> Generator[None]:
    """Raise an exception of class `kind` again, 0.05 s later, if Python ignored it in the block.

    Python ignores exceptions in the callbacks of weak references. A signal may arrive in such a callback,
    because torch's compiler has many of them. Outside the main thread, where no signal arrives, nothing is
    done: blocks of several threads may end in any order, and would leave a hook behind.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = sys.unraisablehook
    ended = False

    def hook(ignored: sys.UnraisableHookArgs) -> None:
        error = ignored.exc_value
        if error is None or not isinstance(error, kind):
            usual(ignored)
            return

        def again(_frame: FrameType | None) -> None:
            if not ended:
                raise error

        _call_soon(again)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        ended = True
        sys.unraisablehook = usual


def _stop_compilers() -> None:
    """Ask the C++ compilers that this process started to remove their temporary files; wait for up to 2 s.

    Ctrl-C in a terminal reaches the compilers too, but other signals reach only this process. On systems
    without Linux's /proc, this function does nothing.
    """
    waiting, compilers = [os.getpid()], []
    while waiting:
        for children in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            with suppress(OSError):
                for child in map(int, children.read_text().split()):
                    waiting.append(child)
                    if Path(f"/proc/{child}/comm").read_text().strip() in _COMPILERS:
                        compilers.append(child)
    # A compiler is stopped after the compilers that it started: nobody would remove files that they create
    # after it has ended.
    for compiler in reversed(compilers):
        with suppress(OSError):
            os.kill(compiler, signal.SIGTERM)
    end = time.monotonic() + 2
    for compiler in compilers:
        with suppress(OSError):  # raised for a compiler that is a child of another compiler
            # WNOWAIT leaves the exit code of the compiler to `subprocess`.
            ended = os.WEXITED | os.WNOWAIT | os.WNOHANG
            while os.waitid(os.P_PID, compiler, ended) is None and time.monotonic() < end:
                time.sleep(0.01)


def _ignore_hangups() -> None:
    # When a terminal closes, the shell and the kernel each send SIGHUP. The second must not stop the cleanup.
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
