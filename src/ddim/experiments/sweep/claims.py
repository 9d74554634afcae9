"""Which of several workers does what: claims in a shared folder, kept alive by heartbeats.

A claim is a file, ``<thing>/<k>.json`` with k = 1, 2, ...; whoever made the latest holds the thing. A file
is made whole and by one worker only (`ddim.files.write_once`), and none is ever removed: of two workers that
find the same claim dead, one makes k + 1, and the other is told that it was late.

A claim is dead when its count of beats has not moved for as long as the lease, by the clock of whoever looks.
No clock is compared with another machine's.
"""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ddim.files import make_folder, write_atomic, write_once

LEASE = 60.0
"""Seconds without a beat after which a worker counts as dead: more than file servers hold a file back."""
BEATS = 10
"""Beats a lease: a worker must miss that many to lose what it holds."""


@dataclass(frozen=True)
class _Page:
    """What a claim's file says: number k, beats so far, and whether its worker gave it up."""

    number: int
    beats: int = 0
    released: bool = False

    def write(self) -> bytes:
        """The file's content."""
        worker = f"{platform.node()}-{os.getpid()}"
        return json.dumps({"worker": worker, "beats": self.beats, "released": self.released}).encode() + b"\n"


class Claims:
    """One worker's view of the claims in a folder. Its state is what it saw of others, and when."""

    def __init__(
        self, folder: Path, lease: float = LEASE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder, self.lease, self.clock = folder, lease, clock
        self._seen: dict[str, tuple[_Page, float]] = {}

    def take(self, thing: str) -> Claim | None:
        """A claim on `thing`, or None while another worker holds it, as far as is known yet."""
        folder = self.folder / thing
        latest = _latest(folder)
        if latest is not None and not latest.released and not self._dead(thing, latest):
            return None
        page = _Page(1 if latest is None else latest.number + 1)
        make_folder(folder)
        try:
            write_once(_file(folder, page.number), page.write())
        except FileExistsError:
            return None
        return Claim(folder, page, self.lease / BEATS, self.clock)

    def _dead(self, thing: str, page: _Page) -> bool:
        before, since = self._seen.get(thing, (None, 0.0))
        now = self.clock()
        if page != before:
            self._seen[thing] = page, now
            return False
        return now - since > self.lease


class Claim:
    """What this worker holds until it is released, or lost to another that found it dead."""

    def __init__(self, folder: Path, page: _Page, every: float, clock: Callable[[], float]) -> None:
        self.folder, self.page, self.every, self.clock = folder, page, every, clock
        self.last = clock()

    @property
    def first(self) -> bool:
        """Whether no one held the thing before."""
        return self.page.number == 1

    def beat(self) -> bool:
        """Say that the worker lives, where that is due; False where another has taken over meanwhile."""
        if self.clock() - self.last < self.every:
            return True
        if _file(self.folder, self.page.number + 1).exists():
            return False
        self.last = self.clock()
        self._write(_Page(self.page.number, self.page.beats + 1))
        return True

    def release(self) -> None:
        """Let others have it at once."""
        self._write(_Page(self.page.number, self.page.beats, released=True))

    def _write(self, page: _Page) -> None:
        # Its own file, whoever holds the thing by now: no other claim is touched.
        self.page = page
        write_atomic(_file(self.folder, page.number), page.write())


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number}.json"


def _latest(folder: Path) -> _Page | None:
    """The page that counts; None where nobody ever claimed the thing."""
    try:
        found = [re.fullmatch(r"([1-9][0-9]*)\.json", name) for name in os.listdir(folder)]
    except FileNotFoundError:
        return None
    numbers = [int(match[1]) for match in found if match]
    if not numbers:
        return None
    said = json.loads(_file(folder, max(numbers)).read_bytes())
    return _Page(max(numbers), said["beats"], said["released"])
