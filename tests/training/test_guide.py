"""The early checkpoint that training keeps to guide samples: RUN/guide."""

import json
import shutil

import pytest

import tiny
from cases import mark_slow
from ddim.cli import main
from ddim.errors import UserError
from ddim.sampling.pipeline import load
from ddim.training import resume

RECIPE = tiny.recipe(report__guide=0.3, data__size=16)
"""Ten updates of eight images: the guide is kept after the third."""


def guide(run):
    """The names of the checkpoints in RUN/guide."""
    return sorted(path.name for path in (run / "guide").glob("*"))


def stop_at(step):
    return tiny.At(step, lambda run: run.stop())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tiny.train(RECIPE, tmp_path_factory.mktemp("finished") / "run")


def test_the_guide_has_the_weights_of_its_share_of_the_budget_and_no_more_than_sampling_needs(
    finished, tmp_path
):
    """A training that is stopped at that step has the same weights."""
    assert guide(finished) == ["step-000000003"]
    stopped = tiny.train(RECIPE, tmp_path / "run", callbacks=[stop_at(3)])
    for weights in ("ema", "raw"):
        one, other = load(finished / "guide", weights), load(stopped, weights)
        assert one.checkpoint.state.step == other.checkpoint.state.step == 3
        assert tiny.different(one.model.state_dict(), other.model.state_dict()) == []
    files = {path.name for path in (finished / "guide").rglob("*.safetensors")}
    assert files == {"model.safetensors", "default.safetensors"}


@pytest.mark.parametrize("step", mark_slow([2, 3, 6], lambda step: step == 3))
def test_a_killed_run_has_the_same_guide_after_it_is_resumed(step, finished, tmp_path):
    """Before the guide, at its step, and after it, when it is no longer the newest checkpoint."""
    run = tiny.train_until_crash(RECIPE, tmp_path / "run", tiny.At(step, tiny.crash))
    assert guide(run) == ([] if step < 3 else ["step-000000003"])
    resume(run, progress=False)
    tiny.check_same_run(run, finished)


def test_a_longer_budget_keeps_the_guide_unless_its_new_step_is_still_ahead(finished, tmp_path):
    late = shutil.copytree(finished, tmp_path / "late")
    early = tiny.train(RECIPE, tmp_path / "early", callbacks=[stop_at(4)])
    for run, last, kept in ((late, 11, "step-000000003"), (early, 7, "step-000000006")):
        resume(run, images=160, progress=False, callbacks=[stop_at(last)])
        assert guide(run) == [kept]


@pytest.mark.parametrize(("total", "expected"), [(160, ["step-000000006"]), (80, [])])
def test_a_run_by_time_keeps_the_guide_once_its_budget_is_known(total, expected, tmp_path):
    """At the share of the budget, or at once if this share is over; not in the second half of the budget."""
    recipe = tiny.recipe(report__guide=0.3, data__size=8, images=None, minutes=60.0)
    # The measurement of the speed fixes the budget of a run by time.
    fix = tiny.At(4, lambda run: run.fix_total(total))
    run = tiny.train(recipe, tmp_path / "run", callbacks=[fix, stop_at(7)])
    assert guide(run) == expected


def test_commands_take_the_guide_by_its_name_and_a_damaged_one_is_set_aside(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(finished, tmp_path / "run")
    assert main(["sample", str(run / "guide"), "-n", "1", "--steps", "2"]) == 0
    record = json.loads((tmp_path / "samples" / "run-1" / "record.json").read_text())
    assert record["step"] == 3
    file = run / "guide" / "step-000000003" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.warns(UserWarning, match="is skipped"), pytest.raises(UserError, match="has no guide check"):
        load(run / "guide")
    load(run)
