"""The work with models: one thread does it, one job after another; jobs show previews and can be stopped."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from ddim.errors import UserError
from ddim.web.answers import Refused
from ddim.web.settings import Limits

PREVIEW_SECONDS = 0.05
"""The least time between two previews; more would only fill the connection."""

log = logging.getLogger("ddim.web")


class Cancelled(Exception):  # noqa: N818 (an event)
    """Raised in the work of a job whose result nobody needs any more."""


class Enough(Exception):  # noqa: N818 (an event)
    """Raised in the work of a job that shall end now and deliver what is ready."""


class Job:
    """One piece of work, which waits, runs, and ends with a result or a failure.

    Attributes:
        ahead: number of jobs before this one, the running job included.
        result: what the work returned.
        failure: why there is no result, None if there is one.
        cancelled: set to True if nobody needs the result any more.
        enough: set to True if the job shall end and deliver what is ready.
    """

    def __init__(self, work: Callable[[Job], Any], seconds: float) -> None:
        self.work, self.seconds = work, seconds
        self.ahead, self.result = 0, None
        self.failure: Refused | None = None
        self.cancelled = self.enough = False
        self.ended, self._news = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._step: dict[str, Any] = {}
        self._until, self._next = float("inf"), 0.0

    # These methods are called by the work, in the thread of the models.

    def check(self) -> None:
        """Raise `Cancelled` or `Enough` if the job shall end."""
        if self.cancelled:
            raise Cancelled
        if self.enough or time.monotonic() > self._until:
            raise Enough

    def progress(self, what: str, done: float, total: int) -> None:
        """Show how much is done; see `ddim.machine.progress.Progress`."""
        self.show(done, total, what)

    def show(
        self, done: float, total: int, what: str, draw: Callable[[], tuple[bytes, int, int]] | None = None
    ) -> None:
        """Show a step, with a sheet: its PNG, the place of its first image in the result, its columns."""
        self.check()
        if time.monotonic() < self._next and done < total:
            return
        self._next = time.monotonic() + PREVIEW_SECONDS
        step: dict[str, Any] = {"k": done, "of": total, "what": what}
        if draw:
            png, first, columns = draw()
            sheet = f"data:image/png;base64,{base64.b64encode(png).decode()}"
            step |= {"sheet": sheet, "first": first, "columns": columns}
        self._loop.call_soon_threadsafe(self._tell, step)

    def run(self) -> None:
        """Do the work, and keep its result or its failure."""
        self._until = time.monotonic() + self.seconds
        try:
            self.check()
            self.result = self.work(self)
        except Cancelled:
            self.failure = Refused(409, "the request was cancelled")
        except Enough:
            self.failure = Refused(504, f"nothing was ready after {self.seconds:g} s; ask for less")
        except UserError as error:
            self.failure = Refused(422, str(error))
        except Refused as refused:
            self.failure = refused
        except Exception as error:
            log.exception("a job failed")
            self.failure = Refused(503, f"the work failed: {type(error).__name__}; the log has more")

    # These methods are called in the event loop.

    def _tell(self, step: dict[str, Any]) -> None:
        self._step = step
        self._news.set()

    async def events(self) -> AsyncGenerator[tuple[str, Any]]:
        """Yield the name and the data of each event: "queued", "step", and "done" or "failed".

        If steps come faster than the client reads, some are left out.
        """
        told = None
        while not self.ended.is_set():
            if not self._step and told != self.ahead:
                told = self.ahead
                yield "queued", {"ahead": told}
            elif self._step:
                step, self._step = self._step, {}
                yield "step", step
            await self._news.wait()
            self._news.clear()
        if self._step:
            yield "step", self._step
        if self.failure:
            yield "failed", {"error": self.failure.sentence, "status": self.failure.status_code}
        else:
            yield "done", self.result

    def end(self) -> None:
        """Tell all who wait that the job has ended."""
        self.ended.set()
        self._news.set()

    def move(self, ahead: int) -> None:
        """Set the number of jobs before this one."""
        self.ahead = ahead
        self._news.set()


class ModelThread:
    """A bounded queue of jobs, and the thread that does them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._jobs: list[Job] = []
        self._coming = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "models")
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to do jobs, and import torch, so that the first job does not wait for it."""
        self._running = asyncio.create_task(self._run())
        self._thread.submit(__import__, "ddim.sampling.samples")

    async def stop(self) -> None:
        """End all jobs."""
        for job in self._jobs:
            job.cancelled = True
        if self._running:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running
        await asyncio.to_thread(self._thread.shutdown)

    def submit(self, work: Callable[[Job], Any], seconds: float | None = None) -> Job:
        """Return a job that waits for its turn; it is given `seconds`, by default the limit of the server.

        Raises:
            Refused: if the queue is full.
        """
        if sum(not job.cancelled for job in self._jobs) > self._limits.waiting:
            raise Refused(429, f"{self._limits.waiting} requests wait already; try again in a while")
        job = Job(work, self._limits.seconds if seconds is None else seconds)
        self._jobs.append(job)
        job.ahead = len(self._jobs) - 1
        self._coming.set()
        return job

    async def finish(self, job: Job) -> Any:  # noqa: ANN401 (the result of any work)
        """Return the result of a job; cancel it if the caller is cancelled.

        Raises:
            Refused: if the job failed.
        """
        try:
            await job.ended.wait()
        finally:
            job.cancelled = not job.ended.is_set()
        if job.failure:
            raise job.failure
        return job.result

    async def _run(self) -> None:
        while True:
            await self._coming.wait()
            self._coming.clear()
            while self._jobs:
                job = self._jobs[0]
                await asyncio.get_running_loop().run_in_executor(self._thread, job.run)
                self._jobs.remove(job)
                job.end()
                for ahead, waiting in enumerate(self._jobs):
                    waiting.move(ahead)
