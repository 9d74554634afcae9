"""Progress of long work: the callback that public functions take as `progress`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

Progress = Callable[[str, float, int], None]
"""Called with the name of the counted things, such as "samples", the number done, and the total number.

The number done may be a fraction: it is 2.5 when the third sample is half finished. The name changes when the
next stage of the work begins.
"""

READING = "reading images"
"""The name that a `Progress` gets while images are decoded."""


def watch_reading(progress: Progress) -> Callable[[int, int], None]:
    """Return the argument `progress` of `open_images` that reports to `progress`."""
    return partial(progress, READING)


def continue_progress(progress: Progress, before: int, total: int) -> Progress:
    """Return a callback for one part of a longer work, which reports the progress of the whole work.

    Args:
        progress: the callback of the whole work.
        before: the number done before this part.
        total: the total number of the whole work.
    """
    return lambda what, done, _: progress(what, before + done, total)


def ignore_progress(what: str, done: float, total: int) -> None:
    """Show nothing."""
