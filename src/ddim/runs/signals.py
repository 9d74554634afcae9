"""Signal handlers that are set inside a `with` block and restored after it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def handle_signals(names: tuple[str, ...], handler: Callable[[int], None]) -> Iterator[Callable[[], None]]:
    """Call `handler` with the number of each signal that arrives inside the block.

    Yields a function that restores the earlier handlers before the end of the block. Nothing happens outside
    the main thread, where Python allows no handlers, and for signals that this system does not have.
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
    """Yield a list that gets the number of the first SIGINT or SIGTERM; the second has its usual effect."""
    caught: list[int] = []

    def note(number: int) -> None:
        caught.append(number)
        restore()
        # The signal may have interrupted another write to stderr. The run is saved even if this one fails.
        with suppress(Exception):
            sys.stderr.write("finishing this step and saving; a second signal stops at once\n")

    with handle_signals(("SIGINT", "SIGTERM"), note) as restore:
        yield caught
