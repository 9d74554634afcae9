"""The learning-rate range test."""

import math
from dataclasses import replace

import pytest
from PIL import Image

import tiny
from ddim.machine.progress import ignore_progress
from ddim.nn.unet import UNetSpec
from ddim.training.lr_finder import Curve, CurvePlot, find_learning_rate, range_test


def quick_recipe(**changes):
    """A recipe with a network of few layers, so that a hundred updates take a second."""
    net = UNetSpec(widths=(8,), down=(0,), up=(1,), attention=(False,), embedding=8)
    return replace(tiny.recipe(**changes), net=net)


def quick_training(**changes):
    return tiny.training(quick_recipe(**changes))


@pytest.mark.slow
def test_the_suggested_rate_is_neither_too_small_nor_too_large():
    """It learns in thirty steps what a thousandth of it does not, and a thousand times it breaks."""

    def loss(rate):
        run = quick_training(optim__lr=rate, optim__decay="constant", optim__warmup=0)
        losses = [run.advance()["loss"] for _ in range(30)]
        return sum(losses[-10:]) / 10

    found = range_test(quick_training()).suggested
    assert 1e-5 < found < 1e-1
    assert loss(found) < 0.9 * loss(found / 1000)
    assert loss(found) < 0.9 * loss(found * 1000)


def test_the_rates_tried_grow_geometrically_and_are_those_of_the_optimiser():
    run = quick_training(optim__warmup=1000)
    seen = []
    run.optimizer.register_step_pre_hook(lambda *_: seen.append(run.optimizer.param_groups[0]["lr"]))
    curve = range_test(run, low=1e-6, high=1e-4, updates=11)
    assert seen == curve.rates == pytest.approx([1e-6 * 10 ** (k / 5) for k in range(11)])
    assert len(curve.losses) == 11
    assert all(math.isfinite(loss) for loss in curve.losses)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective__finish": 0.5, "images": 640},
        {"objective": "consistency", "images": 640},
        {"objective__times": "loss_aware", "objective__times__entries": 8, "schedule": "linear"},
    ],
    ids=["plain", "finish", "consistency", "loss aware"],
)
def test_the_loss_of_a_range_test_is_flat_at_rates_that_teach_nothing(changes):
    curve = range_test(quick_training(**changes), low=1e-12, high=1e-11, updates=80)
    assert curve.losses[20:] == pytest.approx([curve.losses[20]] * 60, rel=0.1)


def test_a_range_test_ends_when_the_loss_explodes():
    curve = range_test(quick_training(optim__clip=0), high=1e4)
    assert 10 < len(curve.rates) < 100
    assert curve.losses[-1] > 4 * min(curve.losses) or curve.rates[-1] > 1


def test_the_suggestion_is_a_tenth_of_the_rate_of_least_loss():
    assert Curve([1e-4, 1e-3, 1e-2, 1e-1], [3.0, 2.0, 1.0, 9.0]).suggested == pytest.approx(1e-3)


def test_a_run_after_a_range_test_starts_from_untouched_weights_and_keeps_the_plot(tmp_path):
    recipe = quick_recipe()
    curve = find_learning_rate(recipe, tiny.MACHINE, None, ignore_progress)
    drawn = tiny.train(recipe, tmp_path / "drawn", callbacks=[CurvePlot(curve)])
    plain = tiny.train(recipe, tmp_path / "plain")
    tiny.check_same_run(drawn, plain)
    with Image.open(drawn / "lr-finder.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 20)) > 2


@pytest.mark.slow
def test_the_range_test_of_a_run_from_another_uses_its_weights(tmp_path):
    parent = tiny.train(quick_recipe(optim__lr=0.01), tmp_path / "parent")
    fresh, begun = (
        find_learning_rate(quick_recipe(), tiny.MACHINE, source, ignore_progress) for source in (None, parent)
    )
    # A network that has learnt errs less at rates too small to teach it anything.
    assert begun.losses[0] < fresh.losses[0]
