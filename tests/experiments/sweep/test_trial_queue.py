"""The queue of trials works on when a database or a worker does not answer."""

import os
import time
from dataclasses import replace

import pytest
from optuna.exceptions import StorageInternalError

import sweeping
from ddim.errors import NoSpace, UserError
from ddim.experiments.sweep import trial_queue
from ddim.experiments.sweep.trial_queue import TrialQueue
from ddim.files import LOCK, lock_folder


@pytest.fixture
def queue(tmp_path):
    """The empty queue of a sweep with one trial."""
    return TrialQueue(sweeping.plan_sweep(tmp_path, ["a"]), grace=1)


def test_a_worker_waits_for_a_database_that_does_not_answer(queue, monkeypatch):
    answers = [StorageInternalError("the server restarts"), StorageInternalError("no connection")]
    record = queue.storage.record_heartbeat

    def record_later(trial_id):
        if answers:
            raise answers.pop()
        record(trial_id)

    queue.refill()
    monkeypatch.setattr(queue.storage, "record_heartbeat", record_later)
    monkeypatch.setattr(trial_queue.time, "sleep", lambda seconds: None)
    assert queue.take().trial.name == "a"
    answers.append(StorageInternalError("the server is gone"))
    monkeypatch.setattr(trial_queue, "PATIENCE", 0.0)
    queue.interval = 0
    with pytest.raises(UserError, match="has not answered for 0 s: the server is gone"):
        queue.beat(trial_queue.TakenTrial(queue.sweep.trials[0], 0, 1))


@pytest.mark.slow
def test_a_worker_that_waited_long_for_a_trial_keeps_it(queue, monkeypatch):
    change = queue.storage.set_trial_state_values

    def change_late(*args):
        time.sleep(2.5)
        return change(*args)

    queue.refill()
    monkeypatch.setattr(queue.storage, "set_trial_state_values", change_late)
    taken = queue.take()
    other = TrialQueue(queue.sweep, grace=1)
    other.refill()
    assert other.take() is None
    assert queue.beat(taken)


def test_the_trial_of_a_worker_without_a_sign_of_life_goes_to_another(queue):
    queue.refill()
    taken, other = queue.take(), TrialQueue(queue.sweep, grace=1)
    other.refill()
    assert other.take() is None
    time.sleep(2.1)  # the database counts whole seconds
    other.refill()
    assert other.take().trial == taken.trial
    assert not queue.beat(taken)


@pytest.mark.slow
def test_a_full_disk_under_the_database_is_no_database_that_may_answer_later(queue):
    with queue.storage.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    trial = queue.sweep.trials[0]
    queue._trials["a"] = replace(trial, fields={"note": "x" * 10**6})
    with pytest.raises(NoSpace, match="the disk of its storage is full: make room"):
        queue.refill()


def test_a_worker_that_froze_while_it_filled_the_queue_does_not_stop_the_others(queue):
    with lock_folder(queue.sweep.folder):
        queue.refill()
        assert queue.take() is None
        time.sleep(1.1)
        queue.refill()
    assert queue.take().trial.name == "a"


@pytest.mark.slow
def test_a_worker_that_fills_the_queue_for_long_is_not_disturbed(queue):
    with lock_folder(queue.sweep.folder):
        for _ in range(4):
            os.utime(queue.sweep.folder / LOCK)
            queue.refill()
            assert queue.take() is None
            time.sleep(0.5)
