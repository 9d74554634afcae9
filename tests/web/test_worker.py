"""The worker process: its queue is bounded, its jobs can be cancelled, and it is started anew."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from dataclasses import replace

import psutil
import pytest

from ddim.web.answers import Refused
from ddim.web.model_worker import ModelWorker, follow_job, take_result
from ddim.web.settings import Limits
from ddim.web.tasks import TASKS, ChoicesTask, Message, SampleTask, decode_task, encode_task

LIMITS = Limits(waiting=2, per_client=2)


@asynccontextmanager
async def started(limits=LIMITS):
    worker = ModelWorker(limits)
    await worker.start(warm=False)
    try:
        yield worker
    finally:
        await worker.stop()


def task(trained, folder, seeds=(0,), steps=1, previews=False):
    return SampleTask(str(trained / "photos-tiny-1"), str(folder), list(seeds), steps, previews=previews)


def long_task(trained, folder):
    """A task of minutes, which sends a preview of each step."""
    return task(trained, folder, range(64), 1000, previews=True)


async def begin(worker, trained, folder, client="a"):
    """Submit a long job and wait until it samples."""
    job = worker.submit(long_task(trained, folder), client)
    async for event in follow_job(job):
        if event.name == "step":
            return job
    raise AssertionError(job.failure)


def test_tasks_travel_as_json():
    for kind in TASKS.values():
        names = dict.fromkeys(kind.__dataclass_fields__, "x")
        one = kind(**names)
        line = Message(1, "begin", encode_task(one)).encode()
        assert decode_task(Message.decode(line).content) == one


def test_a_full_queue_refuses_and_a_cancelled_job_makes_room_between_two_steps(trained, tmp_path):
    async def run():
        async with started() as worker:
            job = await begin(worker, trained, tmp_path / "long")
            pid, refused = worker.pid, []
            waiting = worker.submit(task(trained, tmp_path / "1"), "a")
            other = None
            for number, client in ((2, "a"), (3, "b"), (4, "c")):
                try:
                    other = worker.submit(task(trained, tmp_path / str(number)), client)
                except Refused as error:
                    refused.append((number, error.status_code))
            # Client a is greedy, and then the queue is full.
            assert refused == [(2, 429), (4, 429)]
            worker.cancel(job)
            await other.ended.wait()
            assert job.failure is not None
            for each in (waiting, other):
                assert take_result(each)["images"][0]["seed"] == 0
            assert worker.pid == pid

    asyncio.run(run())


@pytest.mark.slow
def test_a_job_that_waits_is_cancelled_at_once(trained, tmp_path):
    async def run():
        async with started() as worker:
            job = await begin(worker, trained, tmp_path / "long")
            waiting = [worker.submit(task(trained, tmp_path / str(k)), f"c{k}") for k in range(2)]
            assert [each.ahead for each in waiting] == [1, 2]
            worker.cancel(waiting[0])
            assert waiting[0].ended.is_set()
            assert (waiting[1].ahead, worker.waiting) == (1, 1)
            worker.cancel(job)
            await waiting[1].ended.wait()
            assert not (tmp_path / "0").exists()

    asyncio.run(run())


@pytest.mark.slow
def test_quick_tasks_do_not_wait_for_the_queue(trained, tmp_path):
    async def run():
        async with started() as worker:
            job = await begin(worker, trained, tmp_path / "long")
            assert "ddim" in (await worker.ask(ChoicesTask()))["samplers"]
            assert not job.ended.is_set()

    asyncio.run(run())


@pytest.mark.slow
def test_a_job_that_takes_too_long_ends_and_the_worker_is_started_anew(trained, tmp_path):
    async def run():
        async with started() as worker:
            # The process starts and imports torch before the clock of the short limit runs.
            await worker.ask(ChoicesTask())
            first, worker._limits = worker.pid, replace(LIMITS, job_seconds=0.5)
            job = worker.submit(long_task(trained, tmp_path / "long"), "a")
            await job.ended.wait()
            assert job.failure.status_code == 504
            worker._limits = LIMITS
            other = worker.submit(task(trained, tmp_path / "short"), "a")
            await other.ended.wait()
            assert take_result(other)
            assert worker.pid != first
            assert not psutil.pid_exists(first)

    asyncio.run(run())


@pytest.mark.slow
def test_a_worker_that_was_killed_fails_its_job_and_is_started_anew(trained, tmp_path):
    async def run():
        async with started() as worker:
            job = await begin(worker, trained, tmp_path / "long")
            os.kill(worker.pid, signal.SIGKILL)
            await job.ended.wait()
            assert job.failure.status_code == 503
            other = worker.submit(task(trained, tmp_path / "short"), "a")
            await other.ended.wait()
            assert take_result(other)

    asyncio.run(run())


@pytest.mark.slow
def test_the_worker_ends_with_the_server(trained, tmp_path):
    async def run():
        async with started() as worker:
            await begin(worker, trained, tmp_path / "long")
            process = psutil.Process(worker.pid)
        assert not process.is_running()

    asyncio.run(run())


@pytest.mark.slow
def test_a_fault_is_a_sentence_and_the_worker_goes_on(trained, tmp_path):
    async def run():
        async with started() as worker:
            wrong = worker.submit(replace(task(trained, tmp_path / "a"), run=str(tmp_path)), "a")
            await wrong.ended.wait()
            assert wrong.failure.status_code == 422
            right = worker.submit(task(trained, tmp_path / "b"), "a")
            await right.ended.wait()
            assert take_result(right)

    asyncio.run(run())
