"""The early weights that training keeps, `@guide`, and a run that learns the guidance by them."""

import shutil

import pytest
import torch

import tiny
from cases import mark_slow
from ddim.diffusion.denoiser import Model
from ddim.diffusion.loss import Objective
from ddim.diffusion.schedules import Cosine
from ddim.errors import UserError
from ddim.machine.runtime import Runtime
from ddim.nn.ema import select_averaged
from ddim.runs import checkpoint
from ddim.sampling.pipeline import load, load_state
from ddim.training import resume
from ddim.training.student import EVERY, make_own_teacher

RECIPE = tiny.recipe(
    report__guide=0.3, data__size=16, objective__finish=0.5, objective__finish_after=0, objective__guidance=2
)
"""Ten updates of eight images: the guide is kept after the third, and the last five learn guidance by it."""


def weights(place):
    return load(place).model.state_dict()


def stop_at(step):
    return tiny.At(step, lambda run: run.stop())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tiny.train(RECIPE, tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    """The average weights after step 3, of a training that was stopped there."""
    return weights(tiny.train(RECIPE, tmp_path_factory.mktemp("stopped") / "run", callbacks=[stop_at(3)]))


def test_the_guide_has_the_average_weights_at_its_share_of_the_budget(finished, guide):
    assert tiny.different(weights(f"{finished}@guide"), guide) == []


@pytest.mark.parametrize("step", mark_slow([2, 3, 7], lambda step: step == 7))
def test_a_killed_run_continues_with_the_same_guide_and_learns_the_same_guidance(step, finished, tmp_path):
    """Before the guide, at its step, and while guidance is learnt."""
    run = tiny.train_until_crash(RECIPE, tmp_path / "run", tiny.At(step, tiny.crash))
    resume(run, progress=False)
    tiny.check_same_run(run, finished)


def test_a_restored_training_knows_before_a_step_that_it_learns_guidance(tmp_path):
    """A validation that is repeated after a resume marks the same best checkpoint."""
    for updates, learns in ((0, False), (5, False), (6, True)):
        images = tiny.images(size=(16, 16))
        run, restored = tiny.training(RECIPE, images, updates), tiny.training(RECIPE, images)
        path = checkpoint.save(tmp_path, updates, run.tensors(), run.documents())
        restored.load(run.tensors(), load_state(path))
        assert (run.learns_guidance, restored.learns_guidance) == (learns, learns)


def test_a_longer_budget_keeps_the_guide_unless_its_new_step_is_still_ahead(finished, guide, tmp_path):
    late = shutil.copytree(finished, tmp_path / "late")
    resume(late, images=160, progress=False, callbacks=[stop_at(11)])
    assert tiny.different(weights(f"{late}@guide"), guide) == []
    early = tiny.train(RECIPE, tmp_path / "early", callbacks=[stop_at(4)])
    resume(early, images=160, progress=False, callbacks=[stop_at(6)])
    assert tiny.different(weights(f"{early}@guide"), weights(early)) == []


@pytest.mark.parametrize(("total", "kept"), [(160, 6), (80, 4)])
def test_a_run_by_time_keeps_the_guide_once_its_budget_is_known(total, kept, tmp_path):
    """At the share of the budget, or at once if this share is over."""
    recipe = tiny.recipe(report__guide=0.3, data__size=8, images=None, minutes=60.0)
    # The measurement of the speed fixes the budget of a run by time.
    fix = tiny.At(4, lambda run: run.fix_total(total))
    run = tiny.train(recipe, tmp_path / "run", callbacks=[fix, stop_at(kept)])
    assert tiny.different(weights(f"{run}@guide"), weights(run)) == []


def test_a_run_keeps_no_guide_unless_it_is_asked_to(tmp_path):
    none = tiny.train(tiny.recipe(report__guide=0, objective__guidance=1, images=8), tmp_path / "none")
    with pytest.raises(UserError, match="weights must be one of ema, raw"):
        load(f"{none}@guide")


def test_guidance_begins_with_the_finish(finished, tmp_path):
    """A run without it has other weights only from then on."""
    plain = tiny.recipe(report__guide=0.3, data__size=16, objective__finish=0.5, objective__finish_after=0)
    for last, same in ((5, True), (6, False)):
        plain_run = tiny.train(plain, tmp_path / f"plain-{last}", callbacks=[stop_at(last)])
        guided = tiny.train(RECIPE, tmp_path / f"guided-{last}", callbacks=[stop_at(last)])
        assert (tiny.different(weights(plain_run), weights(guided)) == []) == same


class Constant(torch.nn.Module):
    """A network that predicts the same value for all images, times and pixels."""

    def __init__(self, value):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(float(value)))

    def forward(self, x, condition):
        """Return the value in the shape of x."""
        return self.value.expand_as(x)


@pytest.mark.parametrize("scale", [1.5, 2.5, 4.0])
def test_a_run_that_follows_its_own_teacher_learns_the_guided_prediction(scale):
    """Images of value E, the guide W: training to convergence must predict W + scale * (E - W).

    Each image of the batch has its turn in one step of `EVERY`.
    """
    image, weak = 0.3, -0.1
    model, guide = (Model(Constant(v), Cosine(), "image", shape=(1, 4, 4)) for v in (image, weak))
    average = {name: value.clone() for name, value in select_averaged(model).items()}
    loss = Objective("image", "mse", guidance=scale, interval=(-2.0, 2.0))
    teacher = make_own_teacher(loss, model, average, select_averaged(guide), Runtime())
    x0, eps, places = torch.full((8, 1, 4, 4), image), torch.zeros(8, 1, 4, 4), torch.arange(8)
    times = Cosine().inverse(torch.tensor([0.0, 3.0]).repeat_interleave(4))
    for _ in range(60):
        steps = [teacher.move(model.with_labels(), x0, times, eps, places, step)[0] for step in range(EVERY)]
        assert [int((moved[:4] != x0[:4]).any((1, 2, 3)).sum()) for moved in steps] == [1] * EVERY
        # Its mean is the exact minimum of the squared error.
        average["net.value"].copy_(torch.stack(steps)[:, :4].mean())
    assert average["net.value"].item() == pytest.approx(weak + scale * (image - weak), abs=1e-4)
    torch.testing.assert_close(torch.stack(steps)[:, 4:].mean(), torch.tensor(image))
