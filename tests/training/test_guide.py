"""The early checkpoint that training keeps to guide samples: RUN/guide."""

import json

import pytest
import torch

import tiny
from cases import mark_slow
from ddim.cli import main
from ddim.errors import UserError
from ddim.runs import checkpoint
from ddim.sampling.pipeline import load
from ddim.training import resume

RECIPE = tiny.recipe(report__guide=0.3)
"""Ten updates of eight images: the guide is kept after the third."""


def guide(run):
    """The names of the checkpoints in RUN/guide."""
    return sorted(path.name for path in (run / "guide").glob("*"))


def guide_bits(run):
    """The bytes of the weights in RUN/guide."""
    (path,) = (run / "guide").iterdir()
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*.safetensors")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny.train(RECIPE, tmp_path_factory.mktemp("whole") / "run")


def test_the_guide_has_the_weights_of_its_share_of_the_budget(whole, tmp_path):
    """A training that is stopped at that step has the same weights."""
    assert guide(whole) == ["step-000000003"]
    stopped = tiny.train(RECIPE, tmp_path / "run", callbacks=[tiny.At(3, lambda run: run.stop())])
    for weights in ("ema", "raw"):
        one, other = load(whole / "guide", weights), load(stopped, weights)
        assert one.checkpoint.state.step == other.checkpoint.state.step == 3
        pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_the_guide_holds_only_what_sampling_needs(whole):
    path = checkpoint.find_newest(whole / "guide")
    files = {file.name for file in path.rglob("*") if file.is_file()}
    assert files == {"model.safetensors", "default.safetensors", "state.json", "recipe.json", "MANIFEST.json"}


@pytest.mark.parametrize("share", [0, 0.0])
def test_no_guide_is_kept_without_a_share(share, tmp_path):
    run = tiny.train(tiny.recipe(report__guide=share, images=16), tmp_path / "run")
    assert not (run / "guide").exists()
    with pytest.raises(UserError, match="has no guide checkpoint"):
        load(run / "guide")


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_outside_the_budget_is_refused(share):
    with pytest.raises(UserError, match=r"report\.guide must be at least 0 and less than 1, got"):
        tiny.recipe(report__guide=share)


@pytest.mark.parametrize("step", mark_slow([2, 3, 6], lambda step: step == 6))
def test_a_killed_run_has_the_same_guide_after_it_is_resumed(step, whole, tmp_path):
    """Before the guide, at its step, and after it, when it is no longer the newest checkpoint."""
    run = tiny.train_until_crash(RECIPE, tmp_path / "run", tiny.At(step, tiny.crash))
    assert guide(run) == ([] if step < 3 else ["step-000000003"])
    resume(run, progress=False)
    assert guide_bits(run) == guide_bits(whole)
    tiny.check_same_run(run, whole)


def test_a_run_killed_while_it_writes_the_guide_gets_one(whole, tmp_path, monkeypatch):
    sound = checkpoint.save

    def cut(folder, *args, **options):
        if folder.name == "guide":
            (folder / f".tmp-{'0' * 32}-step-000000003").mkdir(parents=True)
            tiny.crash()
        return sound(folder, *args, **options)

    monkeypatch.setattr(checkpoint, "save", cut)
    run = tiny.train_until_crash(RECIPE, tmp_path / "run")
    monkeypatch.undo()
    resume(run, progress=False)
    assert guide_bits(run) == guide_bits(whole)


def test_a_longer_budget_keeps_the_guide_unless_its_new_step_is_still_ahead(tmp_path):
    finished = tiny.train(RECIPE, tmp_path / "finished")
    resume(finished, images=160, progress=False)
    assert guide(finished) == ["step-000000003"]
    early = tiny.train(RECIPE, tmp_path / "early", callbacks=[tiny.At(4, lambda run: run.stop())])
    resume(early, images=160, progress=False)
    assert guide(early) == ["step-000000006"]


class Fix(tiny.At):
    """Fixes the budget of a run by time after a step, as the measurement of its speed does."""

    def __init__(self, step, total):
        super().__init__(step, lambda run: run.fix_total(total))


@pytest.mark.parametrize(("total", "expected"), [(160, ["step-000000006"]), (80, [])])
def test_a_run_by_time_keeps_the_guide_once_its_budget_is_known(total, expected, tmp_path):
    """Unless its share of the budget is over then."""
    recipe = tiny.recipe(report__guide=0.3, images=None, minutes=60.0)
    run = tiny.train(recipe, tmp_path / "run", callbacks=[Fix(4, total)])
    assert guide(run) == expected


def test_a_damaged_guide_is_set_aside_and_the_run_is_not(tmp_path):
    run = tiny.train(RECIPE, tmp_path / "run")
    file = run / "guide" / "step-000000003" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with (
        pytest.warns(UserWarning, match="is skipped"),
        pytest.raises(UserError, match="has no guide checkpo"),
    ):
        load(run / "guide")
    assert guide(run) == ["damaged-step-000000003-1"]
    load(run)


def test_commands_take_the_guide_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tiny.train(RECIPE, tmp_path / "run")
    assert main(["sample", str(run / "guide"), "-n", "1", "--steps", "2"]) == 0
    record = json.loads((tmp_path / "samples" / "run-1" / "record.json").read_text())
    assert record["step"] == 3
