"""Share the list of runs with many listeners. Files are polled only while somebody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

from ddim.web.answers import Refused
from ddim.web.rows import Row, Sweep
from ddim.web.run_list import EVERY, Change, ListedRun, RunList

FRESH = 1.0
"""Seconds during which the list of runs answers requests without reading the files again."""


@dataclass(eq=False)
class _Listener:
    """A listener, and the ids of the runs that changed since its last event."""

    changed: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, change: Change) -> None:
        changed, gone = {row.id for row in change.changed}, set(change.gone)
        self.changed = (self.changed - gone) | changed
        self.gone = (self.gone - changed) | gone
        if self.changed or self.gone:
            self.news.set()


class RunFeed:
    """The runs in a folder, for the routes and the event streams."""

    def __init__(self, runs: RunList) -> None:
        self._runs = runs
        self._lock = asyncio.Lock()
        self._listeners: set[_Listener] = set()
        self._poll: asyncio.Task[None] | None = None
        self._looked = float("-inf")

    async def rows(self) -> list[Row]:
        """Return all rows."""
        await self.refresh()
        return self._runs.rows

    async def all_runs(self) -> dict[str, ListedRun]:
        """Return what is known about each run, keyed by id."""
        await self.refresh()
        return dict(self._runs.known)

    async def sweeps(self) -> list[Sweep]:
        """Return all sweeps."""
        await self.refresh()
        return self._runs.sweeps

    async def find_run(self, own: str) -> ListedRun:
        """Return what is known about the run with the id `own`.

        Raises:
            Refused: if there is no such run.
        """
        if own not in self._runs.known:
            await self.refresh(fully=True)
        if own not in self._runs.known:
            raise Refused(404, "there is no run of this name; it may have been moved or removed")
        await self.refresh()
        return self._runs.known[own]

    def find_sweep(self, own: str) -> Path | None:
        """Return the folder of the sweep with the id `own`, None if there is none."""
        return self._runs.find_sweep(own)

    async def refresh(self, *, fully: bool = False, at_once: bool = False) -> None:
        """Read the files that may have changed, and tell the listeners about changes.

        Args:
            fully: whether to search for new runs, even if this is not due.
            at_once: whether to read even if the last reading was less than `FRESH` seconds ago.
        """
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if now - self._looked < FRESH and not at_once:
                return
            first = self._looked == float("-inf")
            change = await asyncio.to_thread(self._runs.refresh, fully=fully or first or not self._listeners)
            self._looked = asyncio.get_running_loop().time()
        if change.changed or change.gone:
            for listener in self._listeners:
                listener.note(change)

    async def listen(self) -> AsyncGenerator[Change, None]:
        """Yield all rows first, then the changes as they come. A slow listener gets several
        changes in one.
        """
        rows = await self.rows()
        listener = _Listener()
        self._listeners.add(listener)
        if self._poll is None:
            self._poll = asyncio.create_task(self._keep_polling())
        try:
            yield Change(rows, [])
            while True:
                await listener.news.wait()
                listener.news.clear()
                known = self._runs.known
                changed = [known[own].row for own in sorted(listener.changed) if own in known]
                gone = sorted(listener.gone)
                listener.changed, listener.gone = set(), set()
                yield Change(changed, gone)
        finally:
            self._listeners.discard(listener)
            if not self._listeners and self._poll is not None:
                self._poll.cancel()
                self._poll = None

    async def _keep_polling(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            await self.refresh()
