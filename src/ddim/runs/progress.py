"""Progress of long work: the callback that public functions take as `progress`."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float, int], None]
"""Called with the name of the counted things, such as "samples", the number done, and the total number.

A part counts too: 2.5 of 10 samples are done when the third sample is half finished. The name changes when
the next stage of the work begins.
"""

READING = "reading images"
"""The name that a `Progress` gets while images are decoded."""


def continue_progress(progress: Progress, before: int, total: int) -> Progress:
    """Return a callback for a part of the work that comes after `before` of `total`."""
    return lambda what, done, _: progress(what, before + done, total)


def ignore_progress(what: str, done: float, total: int) -> None:
    """Show nothing."""
