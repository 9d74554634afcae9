"""The learning-rate range test."""

import pytest
from PIL import Image

import tiny
from clocks import quick_recipe
from ddim.machine.progress import ignore_progress
from ddim.training.lr_finder import CurvePlot, find_learning_rate, range_test


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
    exploded = range_test(quick_training(optim__clip=0), high=1e4)
    assert 10 < len(exploded.rates) < 100
    assert exploded.suggested == exploded.rates[exploded.losses.index(min(exploded.losses))] / 10


LOSS_AWARE = {"objective__times": "loss_aware", "objective__times__entries": 8, "schedule": "linear"}


@pytest.mark.parametrize("changes", [{"objective__finish": 0.5, "images": 640}, LOSS_AWARE])
def test_the_loss_of_a_range_test_is_flat_at_rates_that_teach_nothing(changes):
    curve = range_test(quick_training(**changes), low=1e-12, high=1e-11, updates=80)
    assert curve.losses[20:] == pytest.approx([curve.losses[20]] * 60, rel=0.1)


def test_a_run_after_a_range_test_starts_from_untouched_weights_and_keeps_the_plot(tmp_path):
    recipe = quick_recipe()
    curve = find_learning_rate(recipe, tiny.MACHINE, None, ignore_progress)
    drawn = tiny.train(recipe, tmp_path / "drawn", callbacks=[CurvePlot(curve)])
    plain = tiny.train(recipe, tmp_path / "plain")
    tiny.check_same_run(drawn, plain)
    with Image.open(drawn / "lr-finder.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 20)) > 2
