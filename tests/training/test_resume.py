"""A run that was stopped anywhere and resumed is the run that was not."""

import itertools
import json
import shutil
from dataclasses import replace

import pytest

import tiny
from cases import mark_slow
from damage import damage_file, flip_bit
from ddim.diffusion.loss import Hybrid
from ddim.diffusion.schedules import LinearBeta
from ddim.diffusion.times import LossAware
from ddim.errors import UserError
from ddim.experiments.index import read_run
from ddim.files import read_sealed, temporary_name
from ddim.nn.ema import Exponential
from ddim.recipe.codec import override
from ddim.runs import checkpoint, names
from ddim.runs.state import Plan
from ddim.sampling.pipeline import load_state
from ddim.training import Callback, Machine, resume

OFTEN = tiny.recipe(report__checkpoint="0")
"""Checkpoints at other steps than the undisturbed run has them: it must not matter."""


MORE = {
    "augmented, with a finish": override(tiny.AUGMENTED, {"objective.finish": 0.5}),
    "several averages": replace(tiny.recipe("batch norm"), ema=Exponential(0.9, (0.1, 0.3))),
    "Muon": tiny.recipe(optim__method="muon"),
}
CASES = [*itertools.product(tiny.NETS, (1, 2), (1, 4, 5)), *((name, 1, 3) for name in MORE)]
# Parts of a batch, and the step after which the run is restored; 4 steps are an epoch.
FEW = [("layer norm", 2, 5), ("batch norm", 1, 1), ("group norm", 2, 5), ("keras", 1, 4), *CASES[24:]]


@pytest.mark.parametrize(("name", "parts", "stop"), mark_slow(CASES, lambda case: case in FEW))
def test_steps_after_a_restore_are_those_without_one(name, parts, stop, tmp_path):
    """A training restored after some of its steps, and one that was not, are the same after all of them."""
    recipe = MORE[name] if name in MORE else tiny.recipe(name, optim__accumulate=parts)
    whole, first = (tiny.training(recipe, updates=n) for n in (8, stop))
    path = checkpoint.save(tmp_path, stop, first.tensors(), first.documents())
    second = tiny.training(recipe)
    second.load({name: checkpoint.read_tensors(path, name) for name in second.tensors()}, load_state(path))
    assert tiny.different(tiny.bits(first), tiny.bits(second)) == []
    for _ in range(8 - stop):
        second.advance()
    assert tiny.different(tiny.bits(whole), tiny.bits(second)) == []
    assert second.documents() == whole.documents()


def test_losses_that_times_are_drawn_by_survive_a_resume(tmp_path):
    """The memory is full after four updates, so that the last six draw by it."""
    times = LossAware(4, history=4, uniform=0.01)
    recipe = replace(tiny.BASE, net=tiny.VARIANCE, objective=Hybrid(times=times), schedule=LinearBeta())
    recipe = override(recipe, {"report.checkpoint": 0, "data.size": 16})
    whole = tiny.train(recipe, tmp_path / "whole")
    folder = resume(tiny.train_until_crash(recipe, tmp_path / "run", tiny.CrashAtSave(7)))
    tiny.check_same_run(folder, whole)


@pytest.mark.parametrize(("stop", "newest", "logged"), [(2, 0, []), (9, 5, [3, 5, 6, 9])])
def test_a_run_that_crashed_at_any_step_ends_like_an_uninterrupted_one(stop, newest, logged, whole, tmp_path):
    """There is a checkpoint before the first step; lines after a checkpoint are not logged twice."""
    folder = tiny.train_until_crash(tiny.recipe(), tmp_path / "run", tiny.At(stop, tiny.crash))
    assert names.find_checkpoint(folder).name == f"step-{newest:09d}"
    assert [line["step"] for line in tiny.metrics(folder)] == logged
    resume(folder)
    tiny.check_same_run(folder, whole)


def test_a_run_that_crashed_at_every_step_ends_like_an_uninterrupted_one(whole, tmp_path):
    folder = tiny.train_until_crash(OFTEN, tmp_path / "run", tiny.CrashAtSave(1))
    left = temporary_name(folder / "samples" / "step-000000001.png")
    left.write_bytes(b"half a sheet")
    for _ in range(9):
        with pytest.raises(tiny.PowerCutError):
            resume(folder, callbacks=[tiny.CrashAtSave(1)])
    tiny.check_same_run(folder, whole)
    assert not left.exists()


def test_a_damaged_newest_checkpoint_is_replaced_by_the_one_before(whole, tmp_path):
    folder = tiny.train_until_crash(OFTEN, tmp_path / "run", tiny.CrashAtSave(7))
    damage_file(names.find_checkpoint(folder) / "optimizer.safetensors", flip_bit)
    with pytest.warns(UserWarning, match="damaged-step-000000007-1"):
        resume(folder)
    tiny.check_same_run(folder, whole)
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(UserError, match="no undamaged checkpoint"):
        resume(folder)


def test_options_of_the_machine_may_change_at_a_resume_and_stay(tmp_path):
    folder = tiny.train_until_crash(tiny.BASE, tmp_path / "run", tiny.CrashAtSave(1))
    best, chosen = names.find_checkpoint(folder / "best"), []

    class Watch(Callback):
        def on_start(self, training, folder):
            chosen.append((training.runtime.threads, training.runtime.precision))
            training.stop()

    for machine in (Machine(threads=2, precision="bf16"), Machine(), Machine(threads=1)):
        resume(folder, machine=machine, callbacks=[Watch()])
    assert chosen == [(2, "bf16"), (2, "bf16"), (1, "bf16")]
    # A run that is stopped at once keeps its best checkpoint.
    assert names.find_checkpoint(folder / "best") == best


def test_the_best_and_the_newest_two_checkpoints_are_kept_and_a_resumed_run_remembers_the_best(tmp_path):
    """A high rate ruins the weights after a good start. Else the first validation would be the best again."""
    recipe = tiny.recipe(**tiny.DIVERGING, data__size=16)
    whole = tiny.train(recipe, tmp_path / "whole")
    errors = {line["step"]: line["image_mae"] for line in tiny.metrics(whole) if "image_mae" in line}
    least = min(errors, key=errors.get)
    assert (len(errors), least < 7) == (10, True)
    folder = resume(tiny.train_until_crash(recipe, tmp_path / "run", tiny.CrashAtSave(8)))
    for run in (whole, folder):
        assert {int(path.name[5:]) for path in (run / "checkpoints").iterdir()} == {9, 10, least}
        assert names.find_checkpoint(run / "best").name == f"step-{least:09d}"


@pytest.mark.parametrize("net", ["batch norm", "group norm"])
def test_a_run_that_recomputes_activations_has_the_same_bits_and_stays_so_when_it_is_resumed(net, tmp_path):
    """The second of these networks has dropout."""
    recipe = tiny.recipe(net, data__size=16, images=40)
    plain = tiny.train(recipe, tmp_path / "plain")
    machine, stop = replace(tiny.MACHINE, recompute=True), tiny.At(3, lambda training: training.stop())
    run = resume(tiny.train(recipe, tmp_path / "run", machine=machine, callbacks=[stop]))
    assert load_state(names.find_checkpoint(run)).runtime.recompute
    tiny.check_same_run(run, plain)


# A larger budget


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of the undisturbed run."""
    return shutil.copytree(whole, tmp_path / "finished")


def test_a_finished_run_trains_longer_at_the_rate_of_the_whole_budget_and_records_it(finished):
    rates, watch = [], Callback()
    watch.on_step = lambda training, values: rates.append(values["lr"])
    resume(finished, images=120, callbacks=[watch])
    assert [line["step"] for line in tiny.metrics(finished) if "image_mae" in line] == [5, 10, 15]
    assert rates == [Plan(120).rate(tiny.BASE.optim, seen) for seen in range(80, 120, 8)]
    assert read_run(finished).total == 120
    # The same request again changes nothing, and neither does a smaller one.
    resume(finished, images=120)
    resume(finished, images=96)
    assert read_run(finished).total == 120


def test_a_larger_budget_survives_crashes_and_the_loss_of_the_newest_checkpoint(finished, whole, tmp_path):
    other = shutil.copytree(whole, tmp_path / "other")
    # A budget is trained in whole batches.
    resume(finished, images=118)
    with pytest.raises(tiny.PowerCutError):
        resume(other, images=118, callbacks=[tiny.At(11, tiny.crash)])
    shutil.rmtree(other / "checkpoints")
    shutil.copytree(whole / "checkpoints", other / "checkpoints")
    resume(other)
    tiny.check_same_run(finished, other)
    run = read_run(other)
    assert (run.state, run.images, run.total) == ("finished", 120, 120)


def test_more_minutes_are_planned_at_the_pace_of_the_log_with_its_validations(finished):
    # 24 images in 4 s between two lines of the log, and a validation of 2 s after every second line.
    at, lines = 0.0, []
    for step in (3, 6, 9, 12):
        at += 4
        lines.append({"step": step, "images": 8 * step, "time": at, "loss": 1.0})
        if step % 6 == 0:
            at += 2
            lines.append({"step": step, "images": 8 * step, "time": at, "image_mae": 1.0})
    (finished / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    resume(finished, more=0.2)
    assert read_sealed(finished / "run.json")["extended"] == 80 + 64
