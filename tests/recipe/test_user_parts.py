"""Parts that a user wrote, in a recipe, in a run folder, and given again."""

import json
import linecache
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import nn

import ddim
import mine
import tiny
from ddim.diffusion.loss import Loss
from ddim.diffusion.schedules import Cosine
from ddim.errors import UserError
from ddim.recipe import user_parts
from ddim.recipe.checks import check_training
from ddim.recipe.codec import dump, load_recipe, override, walk_slots, write_recipe
from ddim.sampling.pipeline import load
from ddim.training import resume


@pytest.fixture
def elsewhere(monkeypatch):
    """Forget what was given so far, as another process would not know it."""

    def forget():
        monkeypatch.setattr(user_parts, "_GIVEN", {})

    return forget


def test_a_recipe_records_names_and_hashes_and_is_read_back():
    recipe = mine.RECIPE
    tree = dump(recipe)
    assert (tree["schedule"]["kind"], tree["schedule"]["least"]) == ("Straight", 0.02)
    assert tree["net"].keys() == {"kind", "sha256"}
    assert len(tree["objective"]["times"]["sha256"]) == 64
    assert load_recipe(json.loads(json.dumps(tree))) == recipe
    changed = override(recipe, {"schedule.least": "0.1", "optim.lr": "0.5"})
    assert changed.schedule == mine.Straight(0.1)
    assert override(changed, {"schedule": "cosine"}).schedule == Cosine()
    assert override(replace(recipe, schedule=Cosine()), {"schedule": "Straight"}).schedule == mine.Straight()
    assert "Straight" in write_recipe(recipe)
    assert {("net", "Net"), ("schedule", "Straight")} <= {
        (path, slot.value) for path, slot in walk_slots(recipe)
    }


def test_a_part_that_is_not_given_is_named_and_nothing_runs(elsewhere):
    tree = dump(mine.RECIPE)
    elsewhere()
    with pytest.raises(UserError, match=r"^net is Net, which was written by .* own=\[Net\] to ddim\.load"):
        load_recipe(tree)
    user_parts.give_parts([mine.Net, mine.Straight])
    with pytest.raises(UserError, match="objective is Charbonnier"):
        load_recipe(tree)
    user_parts.give_parts(mine.OWN)
    assert load_recipe(tree).schedule == mine.RECIPE.schedule


def test_a_part_with_another_source_is_remarked_upon():
    tree = dump(mine.RECIPE)
    tree["schedule"]["sha256"] = "0" * 64
    with pytest.warns(UserWarning, match="schedule Straight has other source code"):
        assert load_recipe(tree) == mine.RECIPE
    assert user_parts.find_changed_parts(tree, dump(mine.RECIPE)) == ["schedule"]


@pytest.mark.moves_global_rng
def test_the_hash_is_of_the_source_and_of_the_layers():
    def digest(net):
        return dump(replace(mine.RECIPE, net=net))["net"]["sha256"]

    assert digest(mine.Net) == digest(mine.Net()) == digest(partial(mine.Net, 8))
    assert digest(partial(mine.Net, 16)) != digest(mine.Net)
    assert digest(nn.Sequential(nn.Conv2d(3, 3, 1))) != digest(nn.Sequential(nn.Conv2d(3, 3, 3)))


def notebook_cell(text, number, space):
    """Run a cell as IPython does: its source is known by the name of the cell alone."""
    name = f"<ipython-input-{number}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(text, name, "exec"), space)


def test_the_source_of_a_class_in_a_notebook_is_found():
    cell = (
        "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Half:\n    entries = None\n"
        "    def __call__(self, t):\n        return t / 2{}\n"
    )
    space = {"__name__": "__main__"}
    found = []
    for number, more in enumerate(["", "", "  # a remark", " + 0"]):
        notebook_cell(cell.format(more), number, space)
        found.append(user_parts.identify_part(space["Half"]())["sha256"])
    assert found[0] == found[1]
    assert len(set(found)) == 3


@dataclass
class Melting:
    """A dataclass that is not frozen."""

    least: float = 0.1


class Loose(Loss):
    """A callable part without a decorator."""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": Loose()}, "frozen dataclass.*got .*Loose"),
        ({"schedule": Melting()}, r"Melting must be a frozen dataclass: write @dataclass\(frozen=True\)"),
        ({"net": lambda: 3}, "must return a torch.nn.Module, got int"),
    ],
)
def test_values_that_cannot_be_a_part_are_refused_in_one_sentence(changes, message):
    def begin():
        recipe = replace(mine.RECIPE, **changes)
        dump(recipe)
        check_training(recipe)

    with pytest.raises(UserError, match=message):
        begin()


def test_the_inverse_of_a_schedule_is_found_by_bisection():
    t = torch.linspace(0, 1, 50, dtype=torch.float64)
    schedule = mine.Straight(0.01)
    assert torch.allclose(schedule.inverse(schedule(t).log_snr), t, atol=1e-12)
    assert schedule.inverse(torch.tensor([1e9, -1e9])).tolist() == [0, 1]
    assert schedule.inverse(schedule(0.0).log_snr) == 0


def test_own_parts_train_sample_resume_and_load_elsewhere(tmp_path, elsewhere):
    whole = tiny.train(mine.RECIPE, tmp_path / "whole")
    pipeline = load(whole)
    assert (pipeline.recipe.schedule, pipeline.recipe.sampler) == (mine.Straight(0.02), mine.Euler())
    folder = tiny.train_until_crash(
        replace(mine.RECIPE, report=replace(mine.RECIPE.report, checkpoint=0.0)),
        tmp_path / "run",
        tiny.At(7, tiny.crash),
    )
    elsewhere()
    with pytest.raises(UserError, match=r"own=\[Net\]"):
        load(folder)
    with pytest.raises(UserError, match=r"own=\[Net\]"):
        resume(folder)
    resume(folder, own=mine.OWN)
    tiny.check_same_run(folder, whole)
    elsewhere()
    again = ddim.load(folder, own=mine.OWN)
    assert torch.equal(ddim.sample(again, n=2, steps=3), ddim.sample(pipeline, n=2, steps=3))
