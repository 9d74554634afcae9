"""A run that was stopped anywhere and resumed is the run that was not."""

import itertools
import json
import shutil
from dataclasses import replace

import pytest
import torch

import tiny
from cases import mark_slow
from damage import damage_file, flip_bit
from ddim.diffusion.loss import Hybrid
from ddim.diffusion.schedules import LinearBeta
from ddim.diffusion.times import LossAware
from ddim.errors import UserError
from ddim.experiments.index import read_run
from ddim.files import read_sealed
from ddim.nn.ema import Exponential
from ddim.recipe.codec import override
from ddim.runs import checkpoint
from ddim.runs.state import Plan
from ddim.sampling.pipeline import load_state
from ddim.training import Callback, Machine, resume
from ddim.training.request import choose_recipe, find_run


def restored(run, folder):
    """A new training that becomes what is saved of another."""
    path = checkpoint.save(folder, run.step, run.tensors(), run.documents())
    other = tiny.training(run.recipe)
    names = other.tensors()
    other.load({name: checkpoint.read_tensors(path, name) for name in names}, load_state(path))
    return other


def compare_restored(recipe, stop, steps, folder):
    """A run restored after `stop` of its steps, and one that was not, are the same after all of them."""
    whole, first = (tiny.training(recipe, updates=n) for n in (steps, stop))
    second = restored(first, folder)
    assert tiny.different(tiny.bits(first), tiny.bits(second)) == []
    for _ in range(steps - stop):
        second.advance()
    assert tiny.different(tiny.bits(whole), tiny.bits(second)) == []
    assert second.documents() == whole.documents()


CASES = [*itertools.product(tiny.NETS, (1, 2), (1, 4, 5))]
# Parts of a batch, and the step after which the run is restored; 4 steps are an epoch.
FEW = [("layer norm", 2, 5), ("batch norm", 1, 1), ("group norm", 2, 5), ("keras", 1, 4)]


@pytest.mark.parametrize(("net", "parts", "stop"), mark_slow(CASES, lambda case: case in FEW))
def test_steps_after_a_restore_are_those_without_one(net, parts, stop, tmp_path):
    compare_restored(tiny.recipe(net, optim__accumulate=parts), stop, 8, tmp_path)


def test_augmented_steps_with_a_finish_after_a_restore_are_those_without_one(tmp_path):
    compare_restored(override(tiny.AUGMENTED, {"objective.finish": 0.5}), 3, 8, tmp_path)


def test_steps_after_a_restore_of_several_averages_are_those_without_one(tmp_path):
    recipe = replace(tiny.recipe("batch norm"), ema=Exponential(0.9, (0.1, 0.3)))
    compare_restored(recipe, 5, 8, tmp_path)
    files = sorted(path.name for path in tmp_path.glob("step-*/ema/*"))
    assert files == ["0.1.safetensors", "0.3.safetensors", "default.safetensors"]


def test_a_run_with_labels_that_crashed_ends_like_an_uninterrupted_one(tmp_path):
    """Which labels are withheld is no state; how many classes there are is in the recipe that is saved."""
    recipe = tiny.recipe(data__labels=True, data__unlabelled=0.5, report__checkpoint="0")
    whole = tiny.train(recipe, tmp_path / "whole")
    folder = tiny.train_until_crash(recipe, tmp_path / "run", tiny.At(3, tiny.crash))
    with pytest.raises(tiny.PowerCutError):
        resume(folder, callbacks=[tiny.At(7, tiny.crash)])
    resume(folder)
    tiny.check_same_run(folder, whole)
    saved = checkpoint.read_document(checkpoint.find_newest(folder / "checkpoints"), "recipe")
    begun = json.loads((folder / "run.json").read_text())["recipe"]
    assert saved["net"]["classes"] == begun["net"]["classes"] == 12


def test_a_restored_moment_has_the_memory_format_of_its_weight(tmp_path):
    """The fused optimiser walks memory: elsewhere each moment would meet another weight."""
    first = tiny.training(updates=1)
    second = restored(first, tmp_path)
    assert any(p.dim() == 4 and not p.is_contiguous() for p in second.parameters.values())
    for parameter, slot in second.optimizer.state.items():
        assert slot["exp_avg"].stride() == parameter.stride() == slot["exp_avg_sq"].stride()
        assert slot["step"].dtype == torch.float32


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Undisturbed runs by name of the network."""
    made = {}

    def run(net, **changes):
        key = (net, *changes.items())
        if key not in made:
            folder = tmp_path_factory.mktemp("whole") / "run"
            made[key] = tiny.train(tiny.recipe(net, **changes), folder)
        return made[key]

    return run


@pytest.mark.parametrize(("net", "stop"), [("layer norm", 1), ("batch norm", 6)])
def test_a_run_that_crashed_at_any_step_ends_like_an_uninterrupted_one(net, stop, whole, tmp_path):
    # Checkpoints at different steps than the undisturbed run has them: it must not matter.
    recipe = tiny.recipe(net, report__checkpoint="0")
    folder = resume(tiny.train_until_crash(recipe, tmp_path / "run", tiny.At(stop, tiny.crash)))
    tiny.check_same_run(folder, whole(net))
    names = [path.name for path in sorted((folder / "samples").glob("step-*"))]
    assert names == ["step-000000005.png", "step-000000010.png"]
    for name in names:
        assert (folder / "samples" / name).read_bytes() == (whole(net) / "samples" / name).read_bytes()


@pytest.mark.parametrize("saves", mark_slow([4, 5, 6, 10], lambda saves: saves in (5, 6)))
def test_a_run_that_crashed_after_any_save_ends_like_an_uninterrupted_one(saves, whole, tmp_path):
    """With a save each step there is one just before each event, were the event not waited for."""
    recipe = tiny.recipe(report__checkpoint="0")
    folder = resume(tiny.train_until_crash(recipe, tmp_path / "run", tiny.CrashAtSave(saves)))
    tiny.check_same_run(folder, whole("layer norm"))


def test_a_run_that_crashed_at_every_step_ends_like_an_uninterrupted_one(whole, tmp_path):
    recipe = tiny.recipe(report__checkpoint="0")
    folder = tiny.train_until_crash(recipe, tmp_path / "run", tiny.CrashAtSave(1))
    for _ in range(9):
        with pytest.raises(tiny.PowerCutError):
            resume(folder, callbacks=[tiny.CrashAtSave(1)])
    tiny.check_same_run(folder, whole("layer norm"))


def test_a_run_has_a_checkpoint_before_its_first_step(whole, tmp_path):
    """So each later case is to resume the newest checkpoint."""
    folder = tiny.train_until_crash(tiny.recipe(), tmp_path / "run", tiny.At(2, tiny.crash))
    assert checkpoint.find_newest(folder / "checkpoints").name == "step-000000000"
    resume(folder)
    tiny.check_same_run(folder, whole("layer norm"))
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(UserError, match="no undamaged checkpoint"):
        resume(folder)


def test_a_run_that_cannot_start_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("ddim.training.writer.checkpoint.save", tiny.crash)
    with pytest.raises(tiny.PowerCutError):
        tiny.train(tiny.BASE, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_newest_run_of_the_same_recipe_is_found(whole, tmp_path):
    for name in ("older", "newer"):
        shutil.copytree(whole("layer norm"), tmp_path / name, copy_function=shutil.copy)
    assert find_run(tiny.BASE, tmp_path) == tmp_path / "newer"
    assert find_run(override(tiny.BASE, {"optim.lr": 1.0}), tmp_path) is None
    assert find_run(override(tiny.BASE, {"optim.lr": 1.0}), tmp_path, any_rate=True) == tmp_path / "newer"
    assert find_run(choose_recipe(tiny.BASE, "elsewhere", {}), tmp_path) is None


def test_options_of_the_machine_may_change_at_a_resume_and_stay(tmp_path):
    folder = tiny.train_until_crash(tiny.BASE, tmp_path / "run", tiny.At(2, tiny.crash))
    chosen = []

    class Watch(Callback):
        def on_start(self, training, folder):
            chosen.append((training.runtime.threads, training.runtime.precision))
            training.stop()

    for machine in (Machine(threads=2, precision="bf16"), Machine(), Machine(threads=1)):
        resume(folder, machine=machine, callbacks=[Watch()])
    assert chosen == [(2, "bf16"), (2, "bf16"), (1, "bf16")]


def test_lines_logged_after_the_checkpoint_are_not_logged_twice(whole, tmp_path):
    folder = tiny.train_until_crash(tiny.recipe(), tmp_path / "run", tiny.At(9, tiny.crash))
    assert [line["step"] for line in tiny.metrics(folder)] == [3, 5, 6, 9]
    resume(folder)
    assert tiny.metrics(folder) == tiny.metrics(whole("layer norm"))


def test_a_damaged_newest_checkpoint_is_replaced_by_the_one_before(whole, tmp_path):
    recipe = tiny.recipe(report__checkpoint="0")
    folder = tiny.train_until_crash(recipe, tmp_path / "run", tiny.CrashAtSave(7))
    damage_file(checkpoint.find_newest(folder / "checkpoints") / "optimizer.safetensors", flip_bit)
    with pytest.warns(UserWarning, match="damaged-step-000000007-1"):
        resume(folder)
    tiny.check_same_run(folder, whole("layer norm"))


def test_a_finished_run_is_left_as_it_is(whole):
    folder = whole("layer norm")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert resume(folder) == folder
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_best_and_the_newest_two_checkpoints_are_kept(tmp_path):
    # A rate that ruins the weights after a good start: the best is an early one.
    recipe = tiny.recipe(optim__lr="0.3", optim__decay="constant", optim__warmup="0", report__events="10")
    folder = tiny.train(recipe, tmp_path / "run")
    errors = {line["step"]: line["image_mae"] for line in tiny.metrics(folder) if "image_mae" in line}
    assert len(errors) == 10
    kept = {int(path.name[5:]) for path in (folder / "checkpoints").iterdir()}
    assert kept == {9, 10, min(errors, key=errors.get)}
    best = checkpoint.find_best(folder / "checkpoints")
    assert int(best.name[5:]) == min(errors, key=errors.get)


def test_a_resumed_run_remembers_the_best_value(tmp_path):
    """Else the first validation after a resume would be the best, however bad."""
    recipe = tiny.recipe(optim__lr="0.3", optim__decay="constant", optim__warmup="0", report__events="10")
    whole = tiny.train(recipe, tmp_path / "whole")
    errors = {line["step"]: line["image_mae"] for line in tiny.metrics(whole) if "image_mae" in line}
    least = min(errors, key=errors.get)
    assert least < 7
    folder = resume(tiny.train_until_crash(recipe, tmp_path / "run", tiny.CrashAtSave(8)))
    assert checkpoint.find_best(folder / "checkpoints").name == f"step-{least:09d}"


def test_a_resume_that_is_stopped_at_once_keeps_the_best_checkpoint(tmp_path):
    class Stop(Callback):
        def on_start(self, training, folder):
            training.stop()

    folder = tiny.train_until_crash(tiny.BASE, tmp_path / "run", tiny.CrashAtSave(1))
    best = checkpoint.find_best(folder / "checkpoints")
    assert best == checkpoint.find_newest(folder / "checkpoints")
    resume(folder, callbacks=[Stop()])
    assert checkpoint.find_best(folder / "checkpoints") == best


# A larger budget


def test_a_finished_run_trains_longer_and_records_it(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole("layer norm"), folder)
    before = checkpoint.find_best(folder / "checkpoints")
    rates = []

    class Rates(Callback):
        def on_start(self, training, folder):
            assert checkpoint.find_best(folder / "checkpoints") == before

        def on_step(self, training, values):
            rates.append(values["lr"])

    resume(folder, images=120, callbacks=[Rates()])
    assert [line["step"] for line in tiny.metrics(folder) if "image_mae" in line] == [5, 10, 15]
    optim = tiny.recipe().optim
    assert rates == [Plan(120).rate(optim, seen) for seen in range(80, 120, 8)]
    assert read_run(folder).total == 120
    # The same request again changes nothing, and neither does a smaller one.
    for images in (120, 96):
        resume(folder, images=images)
    assert read_run(folder).total == 120


def test_a_larger_budget_survives_crashes_and_the_loss_of_the_newest_checkpoint(whole, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        shutil.copytree(whole("layer norm"), folder)
    # A budget is trained in whole batches.
    resume(one, images=118)
    with pytest.raises(tiny.PowerCutError):
        resume(other, images=118, callbacks=[tiny.At(11, tiny.crash)])
    shutil.rmtree(other / "checkpoints")
    shutil.copytree(whole("layer norm") / "checkpoints", other / "checkpoints")
    resume(other)
    tiny.check_same_run(one, other)
    run = read_run(other)
    assert (run.state, run.images, run.total) == ("finished", 120, 120)


def test_a_run_whose_budget_changed_before_trains_longer_at_the_rate_of_the_whole_budget(tmp_path):
    """A replan lets the rate go on from its value. Kept, it would stay near 0 in the longer training."""
    replan = tiny.At(8, lambda training: training.fix_total(88))
    folder = tiny.train(tiny.recipe(), tmp_path / "run", callbacks=[replan])
    rates = []

    class Rates(Callback):
        def on_step(self, training, values):
            rates.append(values["lr"])

    resume(folder, images=176, callbacks=[Rates()])
    assert rates == [Plan(176).rate(tiny.recipe().optim, seen) for seen in range(88, 176, 8)]


def test_more_minutes_are_planned_by_the_speed_without_validations(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole("layer norm"), folder)
    # 24 images in 4 s between two lines of the log, and a validation of 50 s after each line.
    at, lines = 0.0, []
    for step in (3, 6, 9, 12):
        at += 4
        lines.append({"step": step, "images": 8 * step, "time": at, "loss": 1.0})
        if step % 6 == 0:
            at += 50
            lines.append({"step": step, "images": 8 * step, "time": at, "image_mae": 1.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    resume(folder, more=0.2)
    assert read_sealed(folder / "run.json")["extended"] == 80 + 72


def test_a_folder_that_is_no_run_is_not_resumed(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="cannot be read"):
            resume(folder)
    assert list(tmp_path.iterdir()) == []


def test_sums_that_are_not_finite_survive_the_checkpoint_as_null(tmp_path):
    run = tiny.training(updates=1)
    run.sums["loss"] = float("inf")
    state = run.documents()["state"]
    assert json.loads(json.dumps(state, allow_nan=False))["sums"]["loss"] is None
    again = restored(run, tmp_path)
    assert again.documents()["state"] == state


HYBRID = replace(tiny.BASE, net=tiny.VARIANCE, objective=Hybrid(times=LossAware(4)), schedule=LinearBeta())


def test_losses_that_times_are_drawn_by_survive_a_resume(tmp_path):
    """The memory is full after four updates, so that the last six draw by it."""
    aware = replace(HYBRID, objective=Hybrid(times=LossAware(4, history=4, uniform=0.01)))
    recipe = override(aware, {"report.checkpoint": 0})
    whole = tiny.train(recipe, tmp_path / "whole")
    folder = resume(tiny.train_until_crash(recipe, tmp_path / "run", tiny.CrashAtSave(7)))
    tiny.check_same_run(folder, whole, files=4)
    counts = checkpoint.read_tensors(checkpoint.find_newest(folder / "checkpoints"), "times")["counts"]
    assert counts.sum() == 80
    assert counts.float().std() > 0


def test_losses_of_a_skipped_update_are_not_remembered(monkeypatch):
    run = tiny.training(HYBRID, updates=1)
    before = run.memory.counts.clone()
    assert before.sum() == 8
    sound = Hybrid.__call__
    monkeypatch.setattr(Hybrid, "__call__", lambda *args: sound(*args) * float("nan"))
    run.advance()
    assert torch.equal(run.memory.counts, before)
    assert run.memory.losses.isfinite().all()
