"""Snapshots of averages in training: which, when, and that they change nothing else."""

import hashlib
from dataclasses import replace

import pytest
import torch

import tiny
from cases import mark_slow
from ddim.nn.ema import Power
from ddim.nn.power_averages import GAMMAS, is_snapshot_step
from ddim.recipe.codec import write_recipe
from ddim.runs import checkpoint
from ddim.runs.averages import list_snapshots
from ddim.training import resume
from ddim.training.run import open_split
from in_processes import launch

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


def stored(folder):
    """SHA-256 of each file of the snapshots of a run, by path."""
    there = folder / "averages"
    paths = [path for path in sorted(there.rglob("*")) if path.is_file()]
    return {str(path.relative_to(there)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def steps(folder):
    return [one.step for one in list_snapshots(folder, 10**9)]


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
            for gamma, average in zip(GAMMAS, training.averages.values(), strict=True):
                path = run / "averages" / "snapshots" / f"step-{step:09d}"
                assert tiny.different(checkpoint.read_tensors(path, str(gamma)), average) == []


def test_a_run_with_snapshots_is_bit_identical_to_one_without(run, whole):
    one, other = tiny.digests(whole), tiny.digests(run, files=4)
    assert other.pop("ema/power-16.97.safetensors")
    assert one == other
    assert tiny.metrics(whole) == tiny.metrics(run)
    assert not (whole / "averages").exists()


@pytest.mark.parametrize("stop", mark_slow([1, 4, 5, 6, 8, 10], lambda stop: stop == 8))
def test_a_run_that_crashed_at_any_step_has_the_same_snapshots(stop, run, tmp_path):
    """Checkpoints are rare, so that snapshots after the checkpoint are left over by the crash."""
    folder = tiny.train_until_crash(recipe(), tmp_path / "run", tiny.At(stop, tiny.crash))
    left, start = [], tiny.Callback()
    start.on_start = lambda training, folder: left.extend(steps(folder))
    resume(folder, callbacks=[start])
    assert all(step <= (5 if stop > 5 else 0) for step in left)
    tiny.check_same_run(folder, run, files=4)
    assert stored(folder) == stored(run)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_keep_the_snapshots_of_one(tmp_path):
    """Up to rounding, as their weights are; only one process writes them."""
    file = tmp_path / "tiny.yaml"
    file.write_text(write_recipe(tiny.recipe(images=8 * 66, report__snapshots=2, data__size=8)))
    for count in (1, 2):
        words = ["-m", "ddim", "train", "--recipe", file, "--no-compile", "--precision", "fp32"]
        done = launch(count, *words, "--out", tmp_path / str(count))
        assert done.returncode == 0, done.stderr
    one, two = (list_snapshots(tmp_path / str(count), 10**9) for count in (1, 2))
    assert [each.step for each in one] == [each.step for each in two] == [64]
    for gamma in GAMMAS:
        alone, shared = (checkpoint.read_tensors(each[0].path, str(gamma)) for each in (one, two))
        for name, value in alone.items():
            assert torch.allclose(value, shared[name], rtol=1e-3, atol=1e-5)
