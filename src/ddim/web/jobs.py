"""Threads that do one job after another; jobs show previews and can be stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from ddim.web.answers import Refused, describe_failure
from ddim.web.settings import Limits

PAUSE = 0.05
"""The least time in seconds between two previews, and between two looks at a job."""


class Enough(Exception):  # noqa: N818 (an event)
    """Raised in the work of a job that shall end now and deliver what is ready."""


@dataclass(frozen=True)
class Step:
    """How much of a job is done, and a sheet of its images at this moment.

    Attributes:
        k: how much is done.
        of: how much there is.
        sheet: the sheet as a data URL, None without images.
        first: the place of its first image in the result.
        columns: the number of its columns.
    """

    k: float
    of: int
    sheet: str | None = None
    first: int = 0
    columns: int = 1


class Job:
    """One piece of work, which waits, runs, and ends with a result or a failure.

    Attributes:
        cancelled: set to True if nobody needs the result any more.
        enough: set to True if the job shall end and deliver what is ready.
        until: when the job shall end, by `time.monotonic`.
        ended: holds the result or the failure.
    """

    def __init__(self, work: Callable[[Job], Any], seconds: float) -> None:
        self.work, self.seconds = work, seconds
        self.cancelled = self.enough = False
        self.until, self._next = float("inf"), 0.0
        self.step: Step | None = None
        self.ended: Future[Any]

    # These methods are called in the thread that does the job.

    def check(self) -> None:
        """Raise `Enough` if the job shall end, or `Refused` if nobody needs it any more."""
        if self.cancelled:
            raise Refused(409, "the request was cancelled")
        if self.enough or time.monotonic() > self.until:
            raise Enough

    def show(self, what: str, done: float, total: int, draw: Callable[[], tuple[Any, ...]] = tuple) -> None:
        """Show how much is done; see `ddim.machine.progress.Progress`.

        Args:
            what: the name of the counted things.
            done: how much is done.
            total: how much there is.
            draw: returns the other fields of a `Step`; by default there is no sheet.
        """
        self.check()
        if time.monotonic() < self._next and done < total:
            return
        self._next = time.monotonic() + PAUSE
        self.step = Step(done, total, *draw())

    def run(self) -> Any:  # noqa: ANN401 (the result of any work)
        """Do the work, and return its result.

        Raises:
            Refused: if nothing was ready in time.
        """
        self.until = time.monotonic() + self.seconds
        try:
            self.check()
            return self.work(self)
        except Enough:
            raise Refused(504, f"nothing was ready after {self.seconds:g} s; ask for less") from None


class WorkThread:
    """A bounded queue of jobs, and the thread that does them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._jobs: list[Job] = []
        self._thread = ThreadPoolExecutor(1)

    async def stop(self) -> None:
        """End all jobs."""
        for job in self._jobs:
            job.cancelled = True
        await asyncio.to_thread(self._thread.shutdown)

    def submit(self, work: Callable[[Job], Any], seconds: float | None = None) -> Job:
        """Return a job that waits for its turn; it is given `seconds`, by default the limit of the server.

        Raises:
            Refused: if the queue is full.
        """
        self._jobs = [job for job in self._jobs if not job.ended.done()]
        if sum(not job.cancelled for job in self._jobs) > self._limits.waiting:
            raise Refused(429, f"{self._limits.waiting} requests wait already; try again in a while")
        job = Job(work, self._limits.seconds if seconds is None else seconds)
        job.ended = self._thread.submit(job.run)
        self._jobs.append(job)
        return job

    def count_ahead(self, job: Job) -> int:
        """Return the number of jobs before this one, the running job included."""
        return sum(not other.ended.done() for other in self._jobs[: self._jobs.index(job)])

    async def finish(self, job: Job, request: Request) -> Any:  # noqa: ANN401 (the result of any work)
        """Return the result of a job, or raise its failure; cancel it if the client leaves.

        Raises:
            Refused: if the client leaves.
        """
        try:
            while not job.ended.done():
                if await request.is_disconnected():
                    raise Refused(499, "the client left")
                await asyncio.sleep(PAUSE)
            return job.ended.result()
        finally:
            job.cancelled = not job.ended.done()

    async def follow(self, job: Job, name: str) -> AsyncGenerator[tuple[str, Any]]:
        """Yield the name and the data of each event: "begun", "queued", "step", and "done" or "failed".

        If steps come faster than the client reads, some are left out. If the generator is closed before the
        job has ended, the job is cancelled.
        """
        told: object = None
        try:
            yield "begun", {"job": name}
            while True:
                ended = job.ended.done()
                news = job.step or (told if ended else self.count_ahead(job))
                if news != told:
                    yield ("step", news) if isinstance(news, Step) else ("queued", {"ahead": news})
                if ended:
                    break
                told = news
                await asyncio.sleep(PAUSE)
            if error := job.ended.exception():
                status, sentence = describe_failure(error)
                yield "failed", {"error": sentence, "status": status}
            else:
                yield "done", job.ended.result()
        finally:
            job.cancelled = not job.ended.done()
