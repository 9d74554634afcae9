"""Snapshots of averages in training: which, when, and that they change nothing else."""

from dataclasses import replace

import pytest

import tiny
from cases import mark_slow
from ddim.nn.ema import Power
from ddim.nn.power_averages import GAMMAS, is_snapshot_step
from ddim.runs import checkpoint
from ddim.runs.averages import list_snapshots
from ddim.training import resume
from ddim.training.run import open_split

COUNT = 3
KEPT = [3, 4, 7]
"""The newest three steps of those that are due in ten: 2, 3, 4 and 7."""


@pytest.fixture(autouse=True, scope="module")
def early():
    """Runs of ten updates have snapshots."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddim.nn.power_averages.FIRST", 2)
        yield


def recipe(**changes):
    return tiny.recipe(**{"report__snapshots": COUNT, **changes})


def steps(folder):
    return list(list_snapshots(folder, 10**9))


@pytest.fixture(scope="module")
def run(early, tmp_path_factory):
    """A run with snapshots that nothing disturbed."""
    return tiny.train(recipe(), tmp_path_factory.mktemp("run") / "run")


def test_the_newest_snapshots_are_kept_and_hold_the_tracked_averages(run):
    assert [step for step in range(1, 11) if is_snapshot_step(step, COUNT)] == [2, 3, 4, 7]
    assert steps(run) == KEPT
    both, images = replace(recipe(), ema=Power(GAMMAS[0], (GAMMAS[1],))), open_split(recipe()).images
    training = tiny.training(both, images)
    for step in range(1, 8):
        training.advance()
        if step in KEPT:
            for gamma, name in zip(GAMMAS, training.rules, strict=True):
                path = run / "averages" / "snapshots" / f"step-{step:09d}"
                kept = checkpoint.read_tensors(path, str(gamma))
                assert tiny.different(kept, training.averages[name]) == []


def test_a_run_with_snapshots_is_bit_identical_to_one_without(run, whole):
    assert not (whole / "averages").exists()
    other = [name for name in tiny.differing_files(run, whole) if not name.startswith("averages/")]
    assert {name.rpartition("/")[2] for name in other} == {"power-16.97.safetensors"}


@pytest.mark.parametrize("stop", mark_slow([1, 4, 5, 6, 8, 10], lambda stop: stop == 8))
def test_a_run_that_crashed_at_any_step_has_the_same_snapshots(stop, run, tmp_path):
    """Checkpoints are rare, so that snapshots after the checkpoint are left over by the crash."""
    folder = tiny.train_until_crash(recipe(), tmp_path / "run", tiny.At(stop, tiny.crash))
    left, start = [], tiny.Callback()
    start.on_start = lambda training, folder: left.extend(steps(folder))
    resume(folder, callbacks=[start])
    assert all(step <= (5 if stop > 5 else 0) for step in left)
    tiny.check_same_run(folder, run)
