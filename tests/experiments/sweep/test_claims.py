"""One worker holds a thing: whoever made the latest claim, until he is silent for a lease."""

import threading

import pytest

from ddim.experiments.sweep.claims import BEATS, Claims

LEASE = 60.0
BEAT = LEASE / BEATS


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def worker(tmp_path, clock):
    """What makes a worker: each with its own view; all clocks tick together but for what is told."""
    return lambda its=clock: Claims(tmp_path, LEASE, its)


def race(calls):
    """What calls give that begin at the same moment, each in a thread."""
    barrier, found = threading.Barrier(len(calls)), [None] * len(calls)

    def call(k):
        barrier.wait()
        found[k] = calls[k]()

    threads = [threading.Thread(target=call, args=(k,)) for k in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_a_thing_is_held_by_one_worker(worker):
    assert worker().take("thing") is not None
    assert worker().take("thing") is None
    assert worker().take("another") is not None


@pytest.mark.parametrize("attempt", range(5))
def test_of_many_workers_that_come_together_one_gets_the_thing(worker, attempt):
    taken = race([lambda w=worker(): w.take("thing") for _ in range(8)])
    assert sum(claim is not None for claim in taken) == 1


@pytest.mark.parametrize("attempt", range(5))
def test_of_many_workers_that_see_the_same_dead_claim_one_takes_over(worker, clock, attempt):
    worker().take("thing")
    watchers = [worker() for _ in range(8)]
    assert [w.take("thing") for w in watchers] == [None] * 8
    clock.wait(LEASE + 1)
    taken = race([lambda w=w: w.take("thing") for w in watchers])
    assert sum(claim is not None for claim in taken) == 1


def test_a_worker_that_beats_keeps_the_thing_for_ever(worker, clock):
    claim, other = worker().take("thing"), worker()
    for _ in range(5 * BEATS):
        clock.wait(BEAT)
        assert claim.beat()
        assert other.take("thing") is None


def test_a_silent_worker_loses_the_thing_after_a_lease_and_not_before(worker, clock):
    worker().take("thing")
    other = worker()
    assert other.take("thing") is None
    clock.wait(LEASE - 1)
    assert other.take("thing") is None
    clock.wait(2)
    assert other.take("thing") is not None


def test_silence_counts_from_when_one_looks_and_not_from_what_other_clocks_say(worker, clock):
    worker().take("thing")
    clock.wait(1000 * LEASE)
    # As if its machine were set to another century: what counts is how long it has watched.
    for now in (0.0, 1e12):
        own = Clock(now)
        late = worker(own)
        assert late.take("thing") is None
        own.wait(LEASE - 1)
        assert late.take("thing") is None


def test_a_beat_seen_starts_the_lease_anew(worker, clock):
    claim, other = worker().take("thing"), worker()
    other.take("thing")
    clock.wait(LEASE - 1)
    assert claim.beat()
    assert other.take("thing") is None
    clock.wait(LEASE - 1)
    assert other.take("thing") is None
    clock.wait(2)
    assert other.take("thing") is not None


def test_who_was_taken_for_dead_hears_of_it_and_disturbs_nobody(worker, clock):
    old, other = worker().take("thing"), worker()
    other.take("thing")
    clock.wait(LEASE + 1)
    new = other.take("thing")
    assert not old.beat()
    old.release()
    assert worker().take("thing") is None
    clock.wait(BEAT)
    assert new.beat()


def test_what_is_released_is_free_at_once(worker):
    claim = worker().take("thing")
    assert claim.first
    claim.release()
    again = worker().take("thing")
    assert again is not None
    assert not again.first
    assert worker().take("thing") is None


def test_beats_are_written_when_they_are_due(worker, clock, tmp_path):
    claim = worker().take("thing")
    before = (tmp_path / "thing" / "1.json").read_bytes()
    clock.wait(BEAT / 2)
    assert claim.beat()
    assert (tmp_path / "thing" / "1.json").read_bytes() == before
    clock.wait(BEAT / 2)
    assert claim.beat()
    assert (tmp_path / "thing" / "1.json").read_bytes() != before
