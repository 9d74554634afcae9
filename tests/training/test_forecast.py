"""A forecast says what a training will do: the oracle is a real training by the same clock."""

from dataclasses import replace

import pytest

import clocks
import ddim.training.forecast
import tiny
from clocks import quick_recipe
from ddim.machine.runtime import Runtime
from ddim.training.forecast import forecast_run
from ddim.training.speed import Speed


@pytest.fixture
def clock(monkeypatch):
    return clocks.install(monkeypatch)


def speed_of(clock, recipe, start=0.0):
    """The speed that a measurement by this clock would find."""
    batch = recipe.optim.batch
    warm_up = clock.first + 2 * clock.update
    return Speed(Runtime(), batch, batch, clock.update, start, warm_up, clock.aside, 1, recipe)


@pytest.mark.parametrize(
    ("minutes", "events", "first", "update", "aside"),
    [
        (0.3, 4, 3.0, 0.2, 0.5),
        (0.4, 4, 3.0, 0.2, 0.5),
        # Validations that would take more than the whole time.
        (0.3, 5, 1.0, 0.1, 5.0),
        # The budget is used up before the speed is known.
        (0.3, 2, 60.0, 0.2, 0.5),
    ],
)
def test_a_run_sees_the_images_of_its_forecast(minutes, events, first, update, aside, clock, tmp_path):
    clock.first, clock.update, clock.aside = first, update, aside
    changes = {"report__events": events, "report__validation_images": "1"}
    recipe = quick_recipe(images="none", minutes=minutes, **changes)
    found = forecast_run(recipe, speed_of(clock, recipe))
    folder = tiny.train(recipe, tmp_path / "run", callbacks=[clock])
    # The first steps of the training do not all take the mean of the warm-up, so a step may differ.
    assert found.images == pytest.approx(tiny.metrics(folder)[-1]["images"], abs=8)
    assert found.seconds == pytest.approx(clock.now - 1000, abs=update + 0.01)


def test_a_budget_in_images_is_seen_whole_with_its_validations(clock, tmp_path):
    recipe = quick_recipe(images="100", report__events="3", report__validation_images="1")
    found = forecast_run(recipe, speed_of(clock, recipe))
    tiny.train(recipe, tmp_path / "run", callbacks=[clock])
    # 13 batches of 8.
    assert found.images == 104
    assert found.seconds == pytest.approx(clock.now - 1000)


def test_reading_and_preparing_take_their_part_of_the_minutes(clock):
    recipe = quick_recipe(images="none", minutes="1")
    whole = forecast_run(recipe, speed_of(clock, recipe))
    late = forecast_run(recipe, speed_of(clock, recipe, start=6.0), reading=4.0)
    assert whole.images - late.images == pytest.approx(10 / 0.2 * 8, abs=8)
    assert late.seconds == pytest.approx(60, abs=1)


def test_images_are_proportional_to_long_minutes(clock):
    recipe = quick_recipe(images="none", minutes="10")
    short, long = (
        forecast_run(replace(recipe, minutes=m), speed_of(clock, recipe)).images for m in (10, 100)
    )
    assert long / short == pytest.approx(10, rel=0.02)


def test_very_long_budgets_are_forecast_at_once_and_alike(clock, monkeypatch):
    recipe = quick_recipe(images="none", minutes="60", report__events="3")
    slow = forecast_run(recipe, speed_of(clock, recipe))
    monkeypatch.setattr(ddim.training.forecast, "LONG", 0)
    assert forecast_run(recipe, speed_of(clock, recipe)).images == pytest.approx(slow.images, rel=1e-3)
    # Here validations alone would take more than the whole time.
    busy = replace(speed_of(clock, recipe), validation=1e5)
    assert forecast_run(recipe, busy).images == pytest.approx(slow.images / 4, rel=0.05)
    monkeypatch.undo()
    endless = forecast_run(replace(recipe, minutes=1e12), speed_of(clock, recipe))
    assert endless.images == pytest.approx(1e12 * 60 / 0.2 * 8, rel=1e-3)
