"""R9: what is not finite moves nothing; three times in a row end a run with its last good checkpoint kept."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

import ddim
import tiny
from cases import mark_slow
from ddim.diffusion.loss import Objective
from ddim.errors import NotFinite
from ddim.runs import checkpoint, names
from ddim.training import resume

KINDS = [
    (where, value) for where in ("loss", "gradient", "data") for value in (math.nan, math.inf, -math.inf)
]


@dataclass(frozen=True)
class Poisoned(Objective):
    """The objective, with a value that is not finite in its loss, its gradient or its images."""

    where: str = "loss"
    value: float = math.nan

    def __call__(self, denoise, x0, t, eps, pixels=None):
        """See `Objective`."""
        if self.where == "data":
            x0 = x0.clone()
            x0[0, 0, 0, 0] = self.value
        loss = super().__call__(denoise, x0, t, eps, pixels)
        if self.where == "loss":
            return loss * self.value
        if self.where == "gradient":
            loss.register_hook(lambda gradient: gradient * self.value)
        return loss


def changed(before, after):
    """Names of the tensors that changed, without the averages: those count the unchanged weights again.

    The optimiser has moments of zero after a first step that is skipped, and none before.
    """
    before = {name: torch.zeros_like(value) for name, value in after.items()} | before
    return [name for name in tiny.different(before, after) if not name.startswith("ema/")]


def poison(run, where, value):
    """Make the next updates of a training meet a value that is not finite; returns the cure."""
    sound = run.recipe
    run.recipe = replace(sound, objective=Poisoned(sound.objective.on, where=where, value=value))
    return lambda: setattr(run, "recipe", sound)


@pytest.mark.parametrize("net", ["layer norm", "batch norm"])
@pytest.mark.parametrize(("where", "value"), mark_slow(KINDS, lambda kind: math.isnan(kind[1])))
@pytest.mark.parametrize("bad", [{0}, {1, 2, 4}])
def test_a_step_that_is_not_finite_changes_no_weight(net, where, value, bad):
    hurt, sound = tiny.training(tiny.recipe(net)), tiny.training(tiny.recipe(net))
    for step in range(6):
        if step in bad:
            before = tiny.bits(hurt)
            cure = poison(hurt, where, value)
            values = hurt.advance()
            cure()
            assert not all(math.isfinite(number) for number in values.values())
            assert changed(before, tiny.bits(hurt)) == []
            sound.step += 1
            sound._average_weights()
        else:
            assert all(math.isfinite(number) for number in hurt.advance().values())
            sound.advance()
    assert tiny.different(tiny.bits(hurt), tiny.bits(sound)) == []


def test_three_steps_in_a_row_that_are_not_finite_end_a_run():
    run = tiny.training()
    cure = poison(run, "loss", math.nan)
    run.advance()
    run.advance()
    cure()
    run.advance()
    before = tiny.bits(run)
    poison(run, "gradient", math.inf)
    run.advance()
    run.advance()
    run.raise_if_not_finite()
    run.advance()
    # Nothing moves after the third step, however late the losses are read.
    run.advance()
    with pytest.raises(NotFinite, match="3 times in a row, at step 6"):
        run.raise_if_not_finite()
    assert changed(before, tiny.bits(run)) == []


def ruin(step, file, value=math.nan):
    """Return a callback that sets one number of a file of the checkpoint to a value after a step."""

    def act(training):
        next(iter(training.tensors()[file].values())).detach().view(-1)[0] = value

    return tiny.At(step, act)


@pytest.mark.parametrize(("step", "value", "saved"), [(3, math.nan, 2), (6, -math.inf, 5)])
def test_weights_that_are_not_finite_end_the_run_are_never_saved_and_it_can_be_resumed(
    step, value, saved, whole, tmp_path
):
    folder = tmp_path / "run"
    with pytest.raises(NotFinite, match=f"at step {step + 3}"):
        tiny.train(tiny.recipe(report__checkpoint="0"), folder, callbacks=[ruin(step, "model", value)])
    newest = names.find_checkpoint(folder)
    assert newest.name == f"step-{saved:09d}"
    for name in ("model", "ema/default", "optimizer"):
        assert all(tensor.isfinite().all() for tensor in checkpoint.read_tensors(newest, name).values())
    assert torch.isfinite(ddim.sample(folder, n=1, steps=1)).all()
    resume(folder)
    tiny.check_same_run(folder, whole)


@pytest.mark.parametrize("bad", [10, 5])
def test_a_run_whose_validation_falls_on_a_skipped_step_is_saved_and_finished(bad, tmp_path):
    cures = []
    hurt = tiny.At(bad - 1, lambda training: cures.append(poison(training, "loss", math.nan)))
    heal = tiny.At(bad, lambda training: cures.pop()())
    folder = tiny.train(tiny.recipe(), tmp_path / "run", callbacks=[hurt, heal])
    assert (folder / "checkpoints" / f"step-{bad:09d}").is_dir()
    assert names.find_checkpoint(folder).name == "step-000000010"
    # The mean of a window with a value that is not finite is not finite, and JSON has no such number.
    windows = {line["step"]: line["loss"] for line in tiny.metrics(folder) if "loss" in line}
    assert [step for step, loss in windows.items() if loss is None] == ([6] if bad == 5 else [])


@pytest.mark.parametrize(
    ("step", "file", "said"),
    [(7, "ema/default", "in ema/default is not finite"), (10, "model", "not finite at the last step")],
)
def test_what_is_not_finite_at_a_save_is_never_saved(step, file, said, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(NotFinite, match=said):
        tiny.train(tiny.recipe(), folder, callbacks=[ruin(step, file, math.inf)])
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"step-000000000", "step-000000005"}


def test_an_error_that_is_not_finite_is_not_the_best(tmp_path, monkeypatch):
    """JSON has no NaN, and no later error would be below it."""
    errors = iter((math.nan, 0.5, math.nan, -math.inf, 0.4, math.nan))
    monkeypatch.setattr("ddim.training.loop.validate", lambda run: {"image_mae": next(errors)})
    folder = tiny.train(tiny.recipe(report__best="image_mae", report__events=6, images=48), tmp_path / "run")
    assert names.find_checkpoint(folder / "best").name == "step-000000005"
