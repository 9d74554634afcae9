"""The thread of the models: its queue is bounded, and its jobs can be cancelled or stopped early."""

import asyncio
import threading

import pytest

from ddim.errors import UserError
from ddim.web.answers import Refused
from ddim.web.jobs import Enough, ModelThread
from ddim.web.settings import Limits


class Client:
    """A client that leaves after it was asked `most` times whether it is there."""

    def __init__(self, most=10**9):
        self.most = most

    async def is_disconnected(self):
        self.most -= 1
        return self.most < 0


def run_jobs(work, **limits):
    """Run a coroutine function with a thread of models."""

    async def run():
        models = ModelThread(Limits(**limits))
        try:
            await work(models)
        finally:
            await models.stop()

    asyncio.run(run())


def wait_for_cancel(job):
    """Work that shows steps until it is cancelled or stopped."""
    step = 0
    while True:
        step += 1
        job.show("steps", step, 10**9)


def test_a_full_queue_refuses_and_a_client_that_leaves_makes_room():
    async def work(models):
        first, second = models.submit(wait_for_cancel), models.submit(lambda job: "done")
        assert (models.count_ahead(first), models.count_ahead(second)) == (0, 1)
        with pytest.raises(Refused, match="1 requests wait already"):
            models.submit(lambda job: None)
        with pytest.raises(Refused, match="left"):
            await models.finish(first, Client(2))
        assert await models.finish(second, Client()) == "done"
        assert first.ended.exception().status_code == 409

    run_jobs(work, waiting=1)


def test_steps_are_events_and_the_last_event_is_the_result():
    go = threading.Event()

    def show(job):
        job.show("samples", 1, 2, lambda: (b"png", 0, 4))
        assert go.wait(10)
        job.show("samples", 2, 2)
        return 7

    async def work(models):
        events = []
        async for name, data in models.follow(models.submit(show), "a"):
            events.append((name, data))
            if name == "step":
                go.set()
        assert [name for name, _ in events if name != "queued"] == ["begun", "step", "step", "done"]
        step = next(data for name, data in events if name == "step")
        assert (step.k, step.sheet, step.columns) == (1, "data:image/png;base64,cG5n", 4)
        assert (events[0], events[-1]) == (("begun", {"job": "a"}), ("done", 7))

    run_jobs(work)


def test_work_that_takes_too_long_may_deliver_what_is_ready():
    def deliver(job):
        try:
            wait_for_cancel(job)
        except Enough:
            return "a part"

    async def work(models):
        assert await models.finish(models.submit(deliver), Client()) == "a part"
        with pytest.raises(Refused, match="nothing was ready"):
            await models.finish(models.submit(wait_for_cancel), Client())

    run_jobs(work, seconds=0.2)


@pytest.mark.parametrize(
    ("error", "status"), [(UserError("no"), 422), (Refused(404, "no"), 404), (MemoryError(), 503)], ids=str
)
def test_a_fault_is_a_sentence_and_the_thread_goes_on(error, status):
    def fail(job):
        raise error

    async def work(models):
        failed = [event async for event in models.follow(models.submit(fail), "a")][-1]
        assert (failed[0], failed[1]["status"]) == ("failed", status)
        assert await models.finish(models.submit(lambda job: "right"), Client()) == "right"

    run_jobs(work)
