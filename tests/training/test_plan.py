"""The learning rate and the length of a run."""

import math

import pytest

import clocks
import tiny
from clocks import quick_recipe
from ddim.recipe.recipe import Optim
from ddim.runs import checkpoint, names
from ddim.runs.state import Plan
from ddim.training import resume
from ddim.training.budget import TOLERATED


def rates(optim, plan, images):
    return [plan.rate(optim, seen) for seen in range(0, images, optim.batch)]


def test_the_rate_warms_up_linearly_and_decays_as_a_cosine_from_where_the_length_was_fixed():
    found = rates(Optim(lr=0.5, batch=10, warmup=100), Plan(1000), 300)
    assert found == pytest.approx([0.05 * min(k, 10) for k in range(1, 31)])
    cosine = Optim(lr=1.0, batch=1, decay="cosine")
    wanted = [0.5 + 0.5 * math.cos(math.pi * k / 1000) for k in range(1000)]
    assert rates(cosine, Plan(1000), 1000) == pytest.approx(wanted, abs=1e-12)
    assert Plan(None).rate(cosine, 500) == 1.0
    found = [Plan(1500, settled=500).rate(cosine, seen) for seen in (500, 1000, 1500)]
    assert found == pytest.approx([1.0, 0.5, 0.0], abs=1e-12)


def test_the_rates_of_a_run_are_those_of_its_plan():
    run = tiny.training(quick_recipe(optim__warmup=24))
    found = [run.advance()["lr"] for _ in range(10)]
    assert found == [Plan(80).rate(run.recipe.optim, 8 * k) for k in range(10)]
    assert found[0] < found[1] < found[2] > found[9] > 0


@pytest.fixture
def clock(monkeypatch):
    return clocks.install(monkeypatch)


def timed(minutes, **changes):
    changes = {"images": "none", "report__validation_images": "1", "data__size": 8, **changes}
    return quick_recipe(minutes=minutes, **changes)


def read_plan(folder):
    return checkpoint.read_document(names.find_checkpoint(folder), "state")["plan"]


@pytest.mark.parametrize("minutes", [0.3, 0.4])
def test_a_time_budget_includes_compilation_measurement_and_validations(minutes, clock, tmp_path):
    """Compilation, measurement and validations together take the given time, in whole batches."""
    folder = tiny.train(timed(minutes, report__events="4"), tmp_path / "run", callbacks=[clock])
    assert clock.now - 1000 == pytest.approx(minutes * 60, rel=TOLERATED)
    plan, last = read_plan(folder), tiny.metrics(folder)[-1]
    assert plan["total"] == last["images"]
    assert 0 < plan["settled"] < plan["total"]
    assert "image_mae" in last


def slow_down(clock, step, update):
    """Return a callback that changes the seconds of an update from a step on."""
    return tiny.At(step, lambda training: setattr(clock, "update", update))


def test_the_total_of_a_time_budget_survives_a_resume(clock, tmp_path):
    whole = tiny.train(timed(0.3), tmp_path / "whole", callbacks=[clock])
    clock.now = 1000.0
    tiny.train_until_crash(timed(0.3), tmp_path / "run", clock, tiny.At(40, tiny.crash))
    # A resumed run is quicker, or slower, by far: its length is written down and does not change.
    clock.update *= 10
    resume(tmp_path / "run", callbacks=[clock])
    tiny.check_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("update", [0.1, 0.8])
def test_a_time_budget_is_planned_anew_when_the_speed_changes(update, clock, tmp_path):
    recipe = timed(0.5, report__events="6", optim__decay="cosine")
    folder = tiny.train(recipe, tmp_path / "run", callbacks=[clock, slow_down(clock, 30, update)])
    assert clock.now - 1000 == pytest.approx(30, rel=0.1)
    plan, lines = read_plan(folder), tiny.metrics(folder)
    planned = [line["planned_images"] for line in lines if "planned_images" in line]
    assert planned[-1] == plan["total"] == lines[-1]["images"]
    assert 0 < plan["decayed"] < 1
    assert "image_mae" in lines[-1]


@pytest.mark.parametrize("minutes", [0.05, 0.2, 0.8, 2.0])
def test_validations_take_at_most_a_tenth_of_the_time(minutes, clock, tmp_path):
    """Each takes the time of its evaluations of the network: a third of that of as many training images."""
    recipe = timed(minutes, report__events="none", report__grid="16", steps="3")
    clock.first, clock.aside, spent, watch = 0.2, 0.0, [], tiny.Callback()

    def sample(training, _sheet):
        spent.append((1 + len(training.samples) * 3) / 3 * clock.update / recipe.optim.batch)
        clock.now += spent[-1]

    watch.on_sheet = sample
    tiny.train(recipe, tmp_path / "run", callbacks=[clock, watch])
    assert 0 < sum(spent) <= 0.1 * minutes * 60
    assert clock.now - 1000 == pytest.approx(minutes * 60, rel=TOLERATED)


@pytest.mark.parametrize(("first", "later"), [(15.0, 0.5), (1.0, 1.0)])
def test_validations_neither_shorten_nor_lengthen_a_time_budget(first, later, clock, tmp_path):
    """The first validation takes half of the budget and the others little, or all take the same time."""
    clock.aside, quick = first, tiny.Callback()
    quick.on_validation = lambda training, values: setattr(clock, "aside", later)
    tiny.train(timed(0.5, report__events="5"), tmp_path / "run", callbacks=[clock, quick])
    assert clock.now - 1000 == pytest.approx(30, rel=0.1)


def test_a_budget_used_up_before_the_speed_is_known_ends_at_once(clock, tmp_path):
    clock.first = 60.0
    folder = tiny.train(timed(0.3), tmp_path / "run", callbacks=[clock])
    assert read_plan(folder)["total"] == tiny.metrics(folder)[-1]["images"]
    assert clock.now - 1000 < 65
