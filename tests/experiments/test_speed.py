"""The measured speed of training, and what a run will do with its budget at this speed."""

import time

import pytest
import torch

import clocks
import ddim.experiments.speed
import tiny
from ddim.data import split_images
from ddim.diffusion.loss import Consistency
from ddim.experiments.speed import Speed, forecast_run, measure_speed
from ddim.machine.runtime import Runtime
from ddim.training import machine
from ddim.training.machine import estimate_seconds, time_image


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(ddim.experiments.speed, "SECONDS", 0.3)


def measure(recipe, cost=1e-4, **options):
    parts = split_images(tiny.images(), recipe.data.validation, recipe.seed)
    return measure_speed(recipe, parts, Runtime(**options), cost)


def test_the_speed_is_that_of_the_steps_after_the_warm_up():
    recipe, threads, state = tiny.recipe(), torch.get_num_threads(), torch.get_rng_state()
    speed = measure(recipe, threads=2)
    assert speed.images % recipe.optim.batch == 0
    assert speed.seconds >= 0.3
    assert speed.images_per_second == speed.images / speed.seconds
    assert speed.parameters == sum(p.numel() for p in tiny.training(recipe).parameters.values())
    # A measurement changes nothing of the caller.
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_the_steps_of_a_student_are_timed_as_they_are_after_its_start(monkeypatch):
    """At its start, a step of a student needs no second evaluation of the network."""
    seen, at = [], Consistency.at
    monkeypatch.setattr(Consistency, "at", lambda loss, *now: seen.append(now[0]) or at(loss, *now))
    measure(tiny.recipe(objective="consistency"))
    assert set(seen) == {0.5}


def speed_of(recipe, first=3.0, update=0.2, aside=0.5, start=0.0):
    """The speed that a measurement by the clock of `clocks` would find."""
    batch = recipe.optim.batch
    return Speed(Runtime(), batch, batch, update, start, first + 2 * update, aside, 1, recipe)


def test_a_run_sees_about_the_images_of_its_forecast(monkeypatch, tmp_path):
    """The oracle is a training by the same clock."""
    clock = clocks.install(monkeypatch)
    changes = {"report__validation_images": "1", "data__size": 8}
    recipe = clocks.quick_recipe(images="none", minutes=0.6, **changes)
    images, seconds = forecast_run(recipe, speed_of(recipe))
    folder = tiny.train(recipe, tmp_path / "run", callbacks=[clock])
    assert images == pytest.approx(tiny.metrics(folder)[-1]["images"], rel=0.05)
    assert seconds == pytest.approx(clock.now - 1000, rel=0.05)


def test_processes_share_the_images_of_a_run_and_not_its_minutes(monkeypatch):
    """The trial step runs on the device of the run; a machine with an accelerator has no use for threads."""
    monkeypatch.setattr(machine, "time_image", lambda *_, device: 0.5)
    recipe = tiny.recipe(images="1000")
    assert estimate_seconds(recipe, 3, "cpu", 2, 1) == 250
    assert estimate_seconds(recipe, 3, "cpu", 2, 5) == 50
    assert estimate_seconds(recipe, 3, "cuda", 2, 5) == 100
    recipe = tiny.recipe(images="none", minutes="10")
    assert estimate_seconds(recipe, 3, "cpu", 2, 5) == 600


def test_the_time_of_an_image_leaves_out_the_waiting_for_other_programs(monkeypatch):
    objective = tiny.BASE.objective
    at = objective.at

    def wait(loss, *now):
        return lambda *given: time.sleep(0.05) or at(*now)(*given)

    monkeypatch.setattr(type(objective), "at", wait)
    assert 0 < time_image(tiny.recipe(), 3) < 0.0125
