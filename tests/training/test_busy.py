"""Trainings on a busy machine: other threads and other plans, recorded so that a run resumes exactly."""

import time
from dataclasses import dataclass, replace

import pytest
import torch

import tiny
from ddim.data import split_images
from ddim.diffusion.loss import Objective
from ddim.machine.distributed import Processes
from ddim.runs import checkpoint
from ddim.runs.recipe import Optim
from ddim.training import Callback, resume
from ddim.training.loop import Plan
from ddim.training.start import estimate_seconds
from ddim.training.threads import ThreadWatch


def test_a_new_plan_continues_the_decay_of_the_rate_where_the_old_plan_left_it():
    optim, first = Optim(lr=1.0, batch=10, decay="cosine"), Plan(1000, settled=100)
    for total in (500, 5000):
        second = Plan(total, settled=400, decayed=first.part(400))
        assert second.rate(optim, 400) == pytest.approx(first.rate(optim, 400), rel=1e-12)
        later = [second.rate(optim, seen) for seen in range(400, total + 1, 10)]
        assert later == sorted(later, reverse=True)
        assert later[-1] == pytest.approx(0, abs=1e-12)
    assert Plan(1000, settled=100, decayed=0.0) == first


@dataclass(frozen=True)
class Delayed(Objective):
    """A loss that waits, as on a machine where other programs compute."""

    def __call__(self, *args):
        time.sleep(0.1)
        return super().__call__(*args)


def test_the_estimated_time_of_a_run_leaves_out_the_waiting_for_other_programs():
    recipe = replace(tiny.recipe(images="1000"), objective=Delayed())
    parts = split_images(tiny.images(), 0.1, 0)
    # 250 updates of four images, each of which waits 0.1 s.
    assert estimate_seconds(recipe, parts, 1) < 12.5


class Told(Callback):
    """Keeps what it is told."""

    def __init__(self):
        self.texts = []

    def on_change(self, training, text):
        """See `Callback`."""
        self.texts.append(text)


@pytest.fixture
def busy(monkeypatch):
    """Other programs start after step 2 and end after step 6, as far as a training can tell."""

    def check(watch):
        wanted = {3: 2, 7: 1}.get(watch.training.step)
        if wanted is None or not watch.adapt:
            return None
        watch.training.set_threads(wanted)
        return f"{wanted} threads"

    monkeypatch.setattr(ThreadWatch, "check", check)
    for module in ("threads", "shared_settings"):
        monkeypatch.setattr(f"ddim.training.{module}.count_cores", lambda: 2)
    monkeypatch.setattr("ddim.training.resumed_machine.count_allowed", lambda: 2)


@pytest.mark.slow
def test_a_change_of_threads_is_saved_at_once_and_survives_a_resume(busy, tmp_path):
    machine, before = replace(tiny.MACHINE, threads=None), torch.get_num_threads()
    told = Told()
    whole = tiny.train(tiny.recipe(), tmp_path / "whole", machine=machine, callbacks=[told])
    assert "2 threads" in told.texts
    assert torch.get_num_threads() == before
    assert [line["threads"] for line in tiny.metrics(whole) if "threads" in line][-2:] == [2, 1]
    folder = tiny.train_until_crash(tiny.recipe(), tmp_path / "run", tiny.At(4, tiny.crash), machine=machine)
    path = checkpoint.find_newest(folder / "checkpoints")
    assert path.name == "step-000000003"
    assert checkpoint.read_document(path, "state")["runtime"]["threads"] == 2
    resume(folder)
    tiny.check_same_run(folder, whole)


def test_threads_that_were_given_do_not_change(busy, tmp_path):
    folder = tiny.train(tiny.recipe(), tmp_path / "run")
    assert not [line for line in tiny.metrics(folder) if "threads" in line]


class Meter:
    """A meter of cores that reads from a list, a window a step."""

    def __init__(self, readings):
        self.readings, self.seconds = iter(readings), 60.0

    def others(self):
        return next(self.readings)

    def restart(self):
        """See `CoreMeter`."""


def watch(monkeypatch, readings, *, threads, adapt=True, processes=1):
    """Check after each of so many steps; returns the numbers of threads and what was said."""
    monkeypatch.setattr("ddim.training.threads.count_cores", lambda: 2)
    meter = Meter(readings)
    monkeypatch.setattr("ddim.training.threads.CoreMeter", lambda: meter)
    run = tiny.training()
    run.runtime, run.processes = replace(run.runtime, threads=threads), Processes(count=processes)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    watched, numbers, said = ThreadWatch(run, adapt), [], []
    run.step = 3
    for _ in readings:
        said.append(watched.check())
        numbers.append(run.runtime.threads)
        run.step += 3
    return numbers, [text for text in said if text]


def test_threads_follow_the_other_programs_after_two_equal_measurements(monkeypatch):
    numbers, said = watch(monkeypatch, [0.0, 1.2, 0.1, 1.0, 1.1, 1.5, 0.2, 0.9, 0.0, 0.0], threads=2)
    assert numbers == [2, 2, 2, 2, 1, 1, 1, 1, 1, 2]
    assert said[0].startswith("other programs use 1.1 of 2 cores: 1 thread instead of 2")


def test_threads_that_were_given_stay_and_a_busy_machine_is_said_once(monkeypatch):
    numbers, said = watch(monkeypatch, [1.5, 1.5, 1.5, 1.5], threads=2, adapt=False)
    assert set(numbers) == {2}
    assert said == ["other programs use 1.5 of 2 cores: training with 2 threads may be slow"]


def test_the_processes_of_a_training_are_no_other_programs(monkeypatch):
    assert watch(monkeypatch, [1.5, 1.5, 1.5], threads=2, adapt=False, processes=2) == ([2, 2, 2], [])


def test_more_fixed_threads_than_cores_are_said_at_the_start(monkeypatch):
    monkeypatch.setattr("ddim.training.threads.count_allowed", lambda: 8)
    run = tiny.training()
    run.runtime = replace(run.runtime, threads=64)
    watched = ThreadWatch(run, adapt=False)
    assert watched.describe_start() == "the run has 64 threads and this machine 8 cores: training may be slow"
    assert watch(monkeypatch, [0.0] * 4, threads=64, adapt=False) == ([64] * 4, [])


def test_a_run_that_may_use_more_cores_blames_no_other_programs(monkeypatch):
    monkeypatch.setattr("ddim.training.threads.count_cores", lambda: 8)
    run = tiny.training()
    run.runtime = replace(run.runtime, device="cuda", threads=2)
    assert ThreadWatch(run, adapt=True).describe_start() is None
    run.runtime, run.processes = replace(run.runtime, device="cpu"), Processes(count=2)
    assert ThreadWatch(run, adapt=True).describe_start() is None
