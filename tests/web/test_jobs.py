"""A thread of the server: its queue is bounded, and a job that is cancelled or fails makes room."""

import asyncio
from unittest.mock import AsyncMock

import pytest

from ddim.errors import UserError
from ddim.web.answers import Refused
from ddim.web.jobs import WorkThread
from ddim.web.settings import Limits


def client(left):
    """A client that has left, or waits."""
    return AsyncMock(**{"is_disconnected.return_value": left})


def run_jobs(work, **limits):
    """Run a coroutine function with such a thread."""

    async def run():
        models = WorkThread(Limits(**limits))
        try:
            await work(models)
        finally:
            await models.stop()

    asyncio.run(run())


def wait_for_cancel(job):
    """Work that shows steps until it is cancelled or stopped."""
    while True:
        job.show("steps", 1, 10**9)


def test_a_full_queue_refuses_and_a_client_that_leaves_makes_room():
    async def work(models):
        first, second = models.submit(wait_for_cancel), models.submit(lambda job: "done")
        assert (models.count_ahead(first), models.count_ahead(second)) == (0, 1)
        with pytest.raises(Refused, match="1 requests wait already"):
            models.submit(lambda job: None)
        with pytest.raises(Refused, match="left"):
            await models.finish(first, client(left=True))
        assert await models.finish(second, client(left=False)) == "done"
        assert first.ended.exception().status_code == 409

    run_jobs(work, waiting=1)


FAULTS = {422: UserError("no"), 404: Refused(404, "no"), 500: MemoryError(), 504: None}


@pytest.mark.parametrize("status", FAULTS)
def test_a_fault_is_a_status_and_the_thread_goes_on(status):
    def fail(job):
        if FAULTS[status]:
            raise FAULTS[status]
        wait_for_cancel(job)  # until the time is over

    async def work(models):
        failed = [event async for event in models.follow(models.submit(fail), "a")][-1]
        assert (failed[0], failed[1]["status"]) == ("failed", status)
        assert await models.finish(models.submit(lambda job: "right"), client(left=False)) == "right"

    run_jobs(work, seconds=0.2)
