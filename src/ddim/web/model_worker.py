"""The server's side of the worker process: a bounded queue, cancellation, and a watchdog."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ddim.web.answers import Refused
from ddim.web.event_stream import Event
from ddim.web.settings import Limits
from ddim.web.tasks import Message, Task, encode_task

_LINE = 64 * 2**20
"""The largest number of bytes of a line from the worker."""
_GONE = "the model worker ended unexpectedly, perhaps because the memory is full; try again with fewer images"


@dataclass(eq=False)
class Job:
    """A task in the queue or in the worker.

    Attributes:
        number: identifies the job in messages.
        task: the task.
        client: the address of the client.
        ahead: number of jobs before this one, the running job included.
        step: the latest preview, None before the first one.
        result: the result, None until the job is done.
        failure: why it failed, None if it did not.
        cancelled: whether its client has left.
        news: an event that is set whenever `ahead`, `step`, `result` or `failure` changes.
        ended: an event that is set when the job has ended.
    """

    number: int
    task: Task
    client: str
    ahead: int = 0
    step: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    failure: Refused | None = None
    cancelled: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def finish(self, result: Mapping[str, Any] | None, failure: Refused | None = None) -> None:
        """End the job with a result or a failure, unless it has ended already."""
        if not self.ended.is_set():
            self.result, self.failure = result, failure
            self.news.set()
            self.ended.set()


class ModelWorker:
    """Runs one worker process: starts it when it is first needed, and again if it has ended."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: Process | None = None
        self._starting = asyncio.Lock()
        self._jobs: dict[int, Job] = {}
        self._waiting: list[Job] = []
        self._running: Job | None = None
        self._work = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._count = 0

    @property
    def pid(self) -> int | None:
        """The id of the worker process, None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def waiting(self) -> int:
        """The number of jobs that wait."""
        return len(self._waiting)

    async def start(self, *, warm: bool) -> None:
        """Begin to take jobs; if `warm` is true, start the process immediately."""
        self._tasks = [asyncio.create_task(self._run())]
        if warm:
            self._tasks.append(asyncio.create_task(self._warm()))

    async def stop(self) -> None:
        """End the process and the tasks that feed it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        process = self._process
        self._end_process("the server ends")
        if process is not None:
            await process.wait()

    def submit(self, task: Task, client: str) -> Job:
        """Put a task into the queue.

        Raises:
            Refused: if the queue is full, or this client has too many jobs.
        """
        mine = sum(job.client == client for job in self._jobs.values())
        if mine >= self._limits.per_client:
            raise Refused(429, f"at most {self._limits.per_client} requests of one client are done at a time")
        if len(self._waiting) >= self._limits.waiting:
            raise Refused(429, f"{len(self._waiting)} requests wait already; try again in a while")
        job = self._enter(task, client)
        self._waiting.append(job)
        self._count_ahead()
        self._work.set()
        return job

    async def ask(self, task: Task) -> Mapping[str, Any]:
        """Return the result of a quick task, which does not wait in the queue.

        Raises:
            Refused: if the task fails, or the worker cannot be started or does not answer in time.
        """
        job = self._enter(task, "")
        try:
            await self._send(Message(job.number, "begin", encode_task(task)))
            async with asyncio.timeout(self._limits.job_seconds):
                await job.ended.wait()
        except TimeoutError:
            job.finish(None, Refused(504, "the model worker does not answer"))
        finally:
            self._jobs.pop(job.number, None)
        return take_result(job)

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue, or ask the worker to stop it after the current sampling step."""
        job.cancelled = True
        if job in self._waiting:
            self._waiting.remove(job)
            self._jobs.pop(job.number, None)
            job.finish(None, Refused(409, "the request was cancelled"))
            self._count_ahead()
        elif job is self._running and not job.ended.is_set() and self._process is not None:
            self._write(Message(job.number, "cancel"))

    def _enter(self, task: Task, client: str) -> Job:
        self._count += 1
        job = Job(self._count, task, client)
        self._jobs[job.number] = job
        return job

    def _count_ahead(self) -> None:
        for place, job in enumerate(self._waiting):
            ahead = place + (self._running is not None)
            if ahead != job.ahead:
                job.ahead = ahead
                job.news.set()

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            while self._waiting:
                self._running = job = self._waiting.pop(0)
                self._count_ahead()
                try:
                    await self._do(job)
                finally:
                    self._running = None
                    self._jobs.pop(job.number, None)

    async def _do(self, job: Job) -> None:
        try:
            # The time to start the process does not count towards the job.
            await self._send(Message(job.number, "begin", encode_task(job.task)))
            if job.cancelled:
                self._write(Message(job.number, "cancel"))
            async with asyncio.timeout(self._limits.job_seconds):
                await job.ended.wait()
        except Refused as refused:
            job.finish(None, refused)
        except TimeoutError:
            seconds = self._limits.job_seconds
            job.finish(None, Refused(504, f"this took longer than {seconds:g} s and was stopped"))
            self._end_process(_GONE)
        except OSError:
            job.finish(None, Refused(503, _GONE))
            self._end_process(_GONE)

    async def _send(self, message: Message) -> None:
        await self._start_process()
        self._write(message)

    def _write(self, message: Message) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(message.encode())

    async def _warm(self) -> None:
        with contextlib.suppress(Refused):
            await self._start_process()

    async def _start_process(self) -> None:
        """Start the process if there is none.

        Raises:
            Refused: if the process cannot be started.
        """
        async with self._starting:
            if self._process is not None and self._process.returncode is None:
                return
            try:
                # In its own session the process does not get Ctrl-C from the terminal; this server stops it.
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "ddim.web.worker_process"),
                    stdin=PIPE,
                    stdout=PIPE,
                    limit=_LINE,
                    start_new_session=True,
                )
            except OSError as error:
                raise Refused(503, f"the model worker cannot be started: {error.strerror}") from None
            self._tasks = [task for task in self._tasks if not task.done()]
            self._tasks.append(asyncio.create_task(self._read(self._process)))

    async def _read(self, process: Process) -> None:
        """Pass the messages of a worker process on to their jobs, until the process ends."""
        while process.stdout is not None and (line := await process.stdout.readline()):
            message = Message.decode(line)
            job = self._jobs.get(message.number)
            if job is None:
                continue
            if message.kind == "step":
                job.step = message.content
                job.news.set()
            elif message.kind == "done":
                job.finish(message.content)
            else:
                job.finish(None, Refused(int(message.content["status"]), str(message.content["error"])))
        await process.wait()
        if process is self._process:
            self._end_process(_GONE)

    def _end_process(self, why: str) -> None:
        """Kill the process; the jobs that it was given fail with the sentence `why`."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        for job in list(self._jobs.values()):
            if job not in self._waiting:
                job.finish(None, Refused(503, why))


def take_result(job: Job) -> Mapping[str, Any]:
    """Return the result of a job that has ended.

    Raises:
        Refused: if the job failed.
    """
    if job.failure is not None:
        raise job.failure
    return job.result or {}


async def follow_job(job: Job) -> AsyncGenerator[Event, None]:
    """Yield the events "queued" and "step" of a job, until the job ends.

    If steps come faster than the client reads, some are left out.
    """
    yield Event("queued", {"ahead": job.ahead})
    ahead, step = job.ahead, None
    while not job.ended.is_set():
        await job.news.wait()
        job.news.clear()
        if job.ahead != ahead:
            ahead = job.ahead
            yield Event("queued", {"ahead": ahead})
        if job.step is not step:
            step = job.step
            yield Event("step", step)
