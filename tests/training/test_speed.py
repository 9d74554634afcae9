"""The measured speed of training."""

import time

import pytest
import torch

import ddim.training.speed
import tiny
from ddim.data import split_images
from ddim.diffusion.loss import Consistency
from ddim.errors import OutOfMemory, UserError
from ddim.machine.runtime import Runtime
from ddim.training.budget import WARM_UP
from ddim.training.speed import measure_speed
from ddim.training.trainer import Trainer


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(ddim.training.speed, "SECONDS", 0.3)


def parts(recipe):
    return split_images(tiny.images(), recipe.data.validation, recipe.seed)


def test_the_speed_is_that_of_the_steps_after_the_warm_up():
    recipe = tiny.recipe()
    began = time.monotonic()
    found = measure_speed(recipe, parts(recipe), Runtime(), cost=1e-4)
    whole = time.monotonic() - began
    assert found.images % recipe.optim.batch == 0
    assert found.images >= ddim.training.speed.FEWEST * recipe.optim.batch
    assert found.seconds >= 0.3
    assert found.start + found.warm_up + found.seconds < whole
    assert found.images_per_second == found.images / found.seconds
    assert found.parameters == sum(p.numel() for p in tiny.training(recipe).parameters.values())


def test_the_steps_of_a_student_are_timed_as_they_are_after_its_start(monkeypatch):
    """At its start, a step of a student needs no second evaluation of the network."""
    seen, at = [], Consistency.at
    monkeypatch.setattr(Consistency, "at", lambda loss, *now: seen.append(now[0]) or at(loss, *now))
    recipe = tiny.recipe(objective="consistency")
    measure_speed(recipe, parts(recipe), Runtime(), cost=1e-4)
    assert set(seen) == {0.5}


@pytest.mark.slow
def test_a_measurement_changes_nothing_of_the_caller():
    recipe, threads, state = tiny.recipe(), torch.get_num_threads(), torch.get_rng_state()
    measure_speed(recipe, parts(recipe), Runtime(threads=2), cost=1e-4)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_a_validation_costs_its_evaluations_and_a_checkpoint(monkeypatch):
    monkeypatch.setattr(ddim.training.speed, "_time_evaluation", lambda training: 1.0)
    monkeypatch.setattr(ddim.training.speed, "_time_saving", lambda training: 0.25)
    # 4 of 8 validation images, and 16 + 21 samples in two and three micro-batches of 8, with 5 steps.
    recipe = tiny.recipe(report__validation_images=4, report__grid=16, report__kid=21, steps=5)
    found = measure_speed(recipe, parts(recipe), Runtime(micro_batch=8), cost=1e-4)
    assert found.validation == pytest.approx(4 / 8 + (2 + 3) * 5 + 0.25)


def test_a_full_drive_for_temporary_files_costs_nothing(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ddim.training.speed.checkpoint, "save", full)
    monkeypatch.setattr(ddim.training.speed, "_time_evaluation", lambda training: 0.0)
    recipe = tiny.recipe()
    assert measure_speed(recipe, parts(recipe), Runtime(), cost=1e-4).validation == 0


def test_long_steps_are_timed_with_fewer_images():
    recipe = tiny.recipe(optim__batch=16, optim__accumulate=2)
    # Of 10 seconds, an image takes 2.4: four of them fit, two in each part.
    found = measure_speed(recipe, parts(recipe), Runtime(), cost=2.4)
    assert found.batch == 4
    assert found.recipe == recipe
    assert measure_speed(recipe, parts(recipe), Runtime(), cost=1e-4).batch == 16


def test_too_little_memory_is_a_mistake_and_other_errors_are_not(monkeypatch):
    recipe = tiny.recipe()

    def fail(*_):
        raise RuntimeError(text)

    def fill(_):
        raise OutOfMemory

    monkeypatch.setattr(ddim.training.speed, "start_training", fail)
    text = "[enforce fail] DefaultCPUAllocator: can't allocate memory"
    with pytest.raises(UserError, match="needs more memory than is free: use a smaller --size"):
        measure_speed(recipe, parts(recipe), Runtime(), cost=1e-4)
    monkeypatch.undo()
    monkeypatch.setattr(ddim.training.speed, "advance_within_memory", fill)
    with pytest.raises(UserError, match="needs more memory than is free: use a smaller --size"):
        measure_speed(recipe, parts(recipe), Runtime(), cost=1e-4)
    monkeypatch.setattr(ddim.training.speed, "start_training", fail)
    text = "shapes differ"
    with pytest.raises(RuntimeError, match="shapes differ"):
        measure_speed(recipe, parts(recipe), Runtime(), cost=1e-4)


def test_steps_that_need_too_much_memory_are_timed_in_parts_as_in_a_run(monkeypatch):
    whole = Trainer._backward

    def backward(self):
        if self.recipe.optim.accumulate < 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return whole(self)

    monkeypatch.setattr(Trainer, "_backward", backward)
    recipe = tiny.recipe()
    found = measure_speed(recipe, parts(recipe), Runtime(), cost=1e-4)
    assert found.recipe == recipe
    assert found.images > 0


def set_steps(monkeypatch, durations):
    """Let each step take the next of these seconds, and nothing else take any time."""
    seconds, now = iter(durations), 0.0

    def step(_):
        nonlocal now
        now += next(seconds)

    monkeypatch.setattr(ddim.training.speed, "_finish_step", step)
    monkeypatch.setattr(ddim.training.speed, "_estimate_validation", lambda training: 0.0)
    monkeypatch.setattr(ddim.training.speed.time, "monotonic", lambda: now)


def test_the_compilation_takes_as_long_for_fewer_images(monkeypatch):
    set_steps(monkeypatch, [30.0] + [1.0] * 99)
    recipe = tiny.recipe(optim__batch=16)
    # Of 10 seconds, an image takes 2.4: a step of 4 images takes one second, so one of 16 takes four.
    found = measure_speed(recipe, parts(recipe), Runtime(), cost=2.4)
    assert found.batch == 4
    assert found.warm_up == pytest.approx(29 + WARM_UP * 4)


@pytest.mark.parametrize(
    ("first", "again", "warm_up"), [(60.0, 5.0, 7.0), (60.0, 90.0, 62.0), (10.0, 0.0, 12.0)]
)
def test_a_network_is_compiled_for_the_cache_and_then_from_it(first, again, warm_up, monkeypatch):
    """The next training finds it in the cache, so the slow compilation takes nothing of its budget."""
    set_steps(monkeypatch, [first] + [1.0] * 5 + [again] + [1.0] * 2)
    monkeypatch.setattr(Runtime, "compiled", lambda runtime, net, **_: net)
    forgotten = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: forgotten.append(1))
    recipe = tiny.recipe()
    assert measure_speed(recipe, parts(recipe), Runtime(compile=True), cost=1e-4).warm_up == warm_up
    assert len(forgotten) == (first > 20)
