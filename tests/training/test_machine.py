"""How long a run will take, as far as that decides how it uses the machine."""

import time

import tiny
from ddim.training import machine
from ddim.training.machine import estimate_seconds, time_image


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
