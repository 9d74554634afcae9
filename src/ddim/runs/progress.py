"""Progress of long work: the callback that public functions take as `progress`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypedDict

Progress = Callable[[str, float, int], None]
"""Called with the name of the counted things, such as "samples", the number done, and the total number.

The number done may be a fraction: it is 2.5 when the third sample is half finished. The name changes when the
next stage of the work begins.
"""

CHECKING = "checking files"
"""The name that a `Progress` gets while files are read to find out whether they have changed."""

READING = "reading images"
"""The name that a `Progress` gets while images are decoded."""


class Watchers(TypedDict):
    """The arguments of `open_images` that are called with (done, total)."""

    progress: Callable[[int, int], None]
    checking: Callable[[int, int], None]


def watch_reading(progress: Progress) -> Watchers:
    """Return the arguments of `open_images` that report to `progress`."""
    return Watchers(progress=partial(progress, READING), checking=partial(progress, CHECKING))


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
