"""The thread of the models: its queue is bounded, and its jobs can be cancelled or stopped early."""

import asyncio
import threading
from contextlib import asynccontextmanager

import pytest

from ddim.errors import UserError
from ddim.web.answers import Refused
from ddim.web.jobs import Enough, ModelThread
from ddim.web.settings import Limits


@asynccontextmanager
async def started(**limits):
    models = ModelThread(Limits(**limits))
    await models.start()
    try:
        yield models
    finally:
        await models.stop()


def wait_for_cancel(job):
    """Work that shows steps until it is cancelled or stopped."""
    step = 0
    while True:
        step += 1
        job.show(step, 10**9, "steps")


def test_a_full_queue_refuses_and_a_cancelled_job_makes_room():
    async def run():
        async with started(waiting=1) as models:
            first = models.submit(wait_for_cancel)
            second = models.submit(lambda job: "done")
            assert (first.ahead, second.ahead) == (0, 1)
            with pytest.raises(Refused, match="1 requests wait already"):
                models.submit(lambda job: None)
            first.cancelled = True
            assert await models.finish(second) == "done"
            assert (second.ahead, first.failure.status_code) == (0, 409)

    asyncio.run(run())


def test_the_caller_that_is_cancelled_cancels_its_job():
    async def run():
        async with started() as models:
            job = models.submit(wait_for_cancel)
            caller = asyncio.create_task(models.finish(job))
            await asyncio.sleep(0.1)
            caller.cancel()
            await job.ended.wait()
            assert job.failure.status_code == 409

    asyncio.run(run())


def test_steps_are_events_and_the_last_event_is_the_result():
    async def run():
        go = threading.Event()

        def work(job):
            job.show(1, 2, "samples", lambda: (b"png", 0, 4))
            assert go.wait(10)
            job.progress("samples", 2, 2)
            return 7

        async with started() as models:
            events = []
            async for name, data in models.submit(work).events():
                events.append((name, data))
                if name == "step":
                    go.set()
        assert [name for name, _ in events if name != "queued"] == ["step", "step", "done"]
        steps = [data for name, data in events if name == "step"]
        assert (steps[0]["k"], steps[0]["sheet"], steps[0]["columns"]) == (1, "data:image/png;base64,cG5n", 4)
        assert events[-1] == ("done", 7)

    asyncio.run(run())


def test_work_that_takes_too_long_may_deliver_what_is_ready():
    def work(job):
        try:
            wait_for_cancel(job)
        except Enough:
            return "a part"

    async def run():
        async with started(seconds=0.2) as models:
            assert await models.finish(models.submit(work)) == "a part"
            with pytest.raises(Refused, match="nothing was ready"):
                await models.finish(models.submit(wait_for_cancel))

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "status"), [(UserError("no"), 422), (Refused(404, "no"), 404), (MemoryError(), 503)], ids=str
)
def test_a_fault_is_a_sentence_and_the_thread_goes_on(error, status):
    def work(job):
        raise error

    async def run():
        async with started() as models:
            with pytest.raises(Refused) as refused:
                await models.finish(models.submit(work))
            assert refused.value.status_code == status
            assert await models.finish(models.submit(lambda job: "right")) == "right"

    asyncio.run(run())
