"""The plan of a training, from Python."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ddim
import ddim.experiments.plan
import ddim.experiments.speed
import ddim.training.memory
import tiny
from ddim.errors import UserError
from ddim.experiments.plan import plan_training
from ddim.sampling.pipeline import read_run_recipe


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(ddim.experiments.speed, "SECONDS", 0.1)


NO_RUNS = Path(__file__).parent


def make(recipe=tiny.BASE, runs=NO_RUNS, **options):
    return plan_training(None, recipe, machine=tiny.MACHINE, runs=runs, **options)


def test_a_plan_has_a_row_for_each_budget():
    plan = make(minutes=[1, 0.2])
    long, short = plan.to_records()
    assert (long["minutes"], short["minutes"]) == (1, 0.2)
    assert long["images"] > 3 * short["images"] > 0
    assert long["images"] % tiny.BASE.optim.batch == 0
    for row in (long, short):
        assert row["passes"] == row["images"] / 32
        # Validations and the warm-up take their part.
        assert row["images"] < row["images_per_second"] * row["minutes"] * 60
        assert row["error_recorded"] is row["error_of_your_runs"] is None
    assert (plan.train, plan.held_out) == (32, 8)


@pytest.mark.parametrize("minutes", [np.array([1, 0.2])])
def test_budgets_can_be_numbers_of_numpy(minutes):
    assert [row["minutes"] for row in make(minutes=minutes).to_records()] == np.ravel(minutes).tolist()


def test_the_wait_for_the_compiler_is_named(monkeypatch):
    def measure(*_):
        raise UserError("measured")

    monkeypatch.setattr(ddim.experiments.plan, "measure_speed", measure)
    monkeypatch.setattr("ddim.machine.runtime.can_compile", lambda device: True)
    for compiling in (True, False):
        works, machine = [], replace(tiny.MACHINE, compiling=compiling)
        with pytest.raises(UserError, match="measured"):
            plan_training(None, tiny.BASE, machine=machine, progress=lambda what, *_, w=works: w.append(what))
        assert ("compiling" in works[-1]) == compiling


def test_a_budget_in_images_gets_its_minutes():
    (row,) = make(images=800).to_records()
    assert row["images"] == 800
    assert row["minutes"] * 60 > 800 / row["images_per_second"]


def test_the_errors_of_own_runs_are_those_of_their_logs(tmp_path):
    folder = tiny.train(tiny.BASE, tmp_path / "runs" / "one")
    lines = [line for line in tiny.metrics(folder) if "image_mae" in line]
    # The run belongs to the caller's recipe and not to one with other seeds of its reports.
    plan = make(read_run_recipe(folder), tmp_path / "runs", images=80)
    (row,) = plan.to_records()
    assert row["error_of_your_runs"] == lines[-1]["image_mae"]
    assert f"your runs: {folder}, finished" in repr(plan)
    assert f"{lines[-1]['image_mae']:.3f}" in repr(plan)
    (half,) = make(tiny.BASE, tmp_path / "runs", images=40).to_records()
    assert half["error_of_your_runs"] == lines[0]["image_mae"]
    (far,) = make(tiny.BASE, tmp_path / "runs", images=800).to_records()
    assert far["error_of_your_runs"] is None


def test_a_plan_is_text_html_and_plain_values():
    plan = make(minutes=0.2)
    text = repr(plan)
    assert text.startswith("32 training images of 32 x 32 pixels; recipe tiny, ")
    assert "measured: " in text.splitlines()[1]
    assert "few training images (32): the network may repeat them" in text
    assert "not measured" in text
    assert "recorded: no run of this recipe at this size" in text
    assert "<table>" in plan._repr_html_()
    document = json.loads(json.dumps(plan.to_json()))
    assert document["budgets"][0]["images"] == plan.to_records()[0]["images"]
    assert document["measured"][0]["images_per_second"] > 0


class Fixed(torch.nn.Module):
    """A network for gray images of 24 pixels alone, with a batch norm that needs two images."""

    def __init__(self):
        super().__init__()
        self.flat = torch.nn.Linear(24 * 24, 8)
        self.norm, self.out = torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 24 * 24)

    def forward(self, x, noise_level):
        """See `UserNetwork`."""
        return self.out(self.norm(self.flat(x.flatten(1)))).view(x.shape)


def test_own_networks_are_planned_as_they_are_trained():
    grays = tiny.images(size=(24, 24), channels=1).pixels
    plan = plan_training(grays, replace(tiny.BASE, net=Fixed), minutes=0.1, machine=tiny.MACHINE)
    assert plan.to_records()[0]["images"] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"minutes": 0}, "minutes (--minutes) must be above 0, got 0"),
        ({"minutes": "10,,40"}, "minutes must be a number"),
        ({"minutes": 1, "images": 10}, "give minutes or images, not both"),
        ({"runs": "rusn"}, "'rusn' is not a folder of runs"),
    ],
)
def test_a_wrong_option_is_one_sentence(options, said):
    with pytest.raises(UserError) as error:
        make(**options)
    assert said in str(error.value)


def test_images_too_large_for_the_memory_are_refused(monkeypatch):
    monkeypatch.setattr(ddim.training.memory, "find_free_memory", lambda device: 2**20)
    with pytest.raises(UserError, match="needs about .* GiB of memory"):
        make()


def test_a_plan_writes_nothing_and_draws_no_random_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(minutes=0.1)
    assert list(tmp_path.iterdir()) == []
