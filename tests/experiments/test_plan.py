"""The measured speed of training, and what a run will do with its budget at this speed."""

import json
from math import prod

import numpy as np
import pytest
import torch

import clocks
import ddim
import ddim.experiments.plan
import ddim.training.memory
import tiny
from ddim.errors import UserError
from ddim.experiments.plan import RECOGNISABLE, Speed, forecast_run
from ddim.machine.runtime import Runtime
from ddim.recipe.codec import override
from ddim.recipe.named import fast


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(ddim.experiments.plan, "SECONDS", 0.1)


def plan(recipe=tiny.BASE, **options):
    return ddim.plan(None, recipe, machine=tiny.MACHINE, **options)


def test_a_plan_has_a_row_for_each_budget_and_writes_nothing(here):
    state = torch.get_rng_state()
    found = plan(minutes=np.array([1, 0.2]), fields={"optim.batch": 16, "data.size": 16})
    long, short = found.to_records()
    assert [long["minutes"], short["minutes"]] == pytest.approx([1, 0.2])
    assert long["images"] > 3 * short["images"] > 0
    document = json.loads(json.dumps(found.to_json()))
    for row in (long, short):
        assert row["passes"] == row["images"] / 32
        # Validations and the warm-up take their part.
        assert row["images"] < document["speed"]["images_per_second"] * row["minutes"] * 60
    assert found.speed.parameters == sum(p.numel() for p in tiny.training().parameters.values())
    assert (document["train"], document["held_out"], document["size"]) == (32, 8, [16, 16])
    assert any("few training images (32)" in caution for caution in document["cautions"])
    assert list(here.iterdir()) == []
    assert torch.equal(torch.get_rng_state(), state)


def test_a_budget_in_images_gets_its_minutes():
    (row,) = plan(images=800).to_records()
    assert row["images"] == 800
    assert row["minutes"] > 0
    with pytest.raises(UserError, match="not both"):
        plan(images=800, minutes=1)


def test_images_too_large_for_the_memory_are_refused(monkeypatch):
    monkeypatch.setattr(ddim.training.memory, "find_free_memory", lambda device: 2**20)
    with pytest.raises(UserError, match="needs about .* GiB of memory"):
        plan()


def test_recognisable_images_come_sooner_if_they_are_smaller(monkeypatch):
    """The oracle is a network whose time is that of its pixels."""
    monkeypatch.setattr(ddim.experiments.plan, "time_image", lambda recipe, *_: 1e-6 * prod(recipe.data.size))
    narrow = override(fast(), {"net.widths": "8,8,8,8", "data.source": "blossoms:40", "optim.batch": 2})
    found = ddim.plan(None, narrow, minutes=1, machine=tiny.MACHINE)
    assert list(found.recognisable) == [64, 32]
    seconds = RECOGNISABLE / found.speed.images_per_second
    assert 60 * found.recognisable[64] == pytest.approx(seconds, rel=0.1)
    assert 60 * found.recognisable[32] == pytest.approx(seconds / 4, rel=0.1)


def test_a_run_sees_about_the_images_of_its_forecast(monkeypatch, tmp_path):
    """The oracle is a training by the same clock."""
    clock = clocks.install(monkeypatch)
    changes = {"report__validation_images": "1", "data__size": 8}
    recipe = clocks.quick_recipe(images="none", minutes=0.6, **changes)
    # A measurement by this clock would find 0.2 s for an update, and 3 s for the first one.
    speed = Speed(Runtime(), recipe.optim.batch / 0.2, 3.0 + 2 * 0.2, 0.5, 1, 1)
    images, seconds = forecast_run(recipe, speed)
    folder = tiny.train(recipe, tmp_path / "run", callbacks=[clock])
    assert images == pytest.approx(tiny.metrics(folder)[-1]["images"], rel=0.05)
    assert seconds == pytest.approx(clock.now - 1000, rel=0.05)
