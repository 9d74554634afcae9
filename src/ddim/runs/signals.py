"""Signal handlers that hold inside a context."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def handle_signals(names: tuple[str, ...], handler: Callable[[int], None]) -> Iterator[Callable[[], None]]:
    """Call `handler` with the number of each of these signals, and restore the handlers at the end.

    Yields a function that restores them at once. Does nothing outside the main thread, where Python has no
    handlers, or for signals that this system does not have.
    """
    main = threading.current_thread() is threading.main_thread()
    kinds = [getattr(signal, name) for name in names if main and hasattr(signal, name)]
    before = {kind: signal.getsignal(kind) for kind in kinds}

    def restore() -> None:
        for kind, old in before.items():
            signal.signal(kind, old)

    for kind in kinds:
        signal.signal(kind, lambda number, _frame: handler(number))
    try:
        yield restore
    finally:
        restore()


@contextmanager
def note_interrupts() -> Iterator[list[int]]:
    """Yield a list that gets the number of the first SIGINT or SIGTERM; a second signal acts at once."""
    caught: list[int] = []

    def note(number: int) -> None:
        caught.append(number)
        restore()
        # It may interrupt another write. The run is saved even if this one fails.
        with suppress(Exception):
            sys.stderr.write("finishing this step and saving; once more stops at once\n")

    with handle_signals(("SIGINT", "SIGTERM"), note) as restore:
        yield caught
