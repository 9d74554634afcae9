"""One update, its draws and its average."""

import contextlib
import math
from dataclasses import fields, replace

import pytest
import torch
from torch import nn

import tiny
from ddim.data.augment import apply_transformations, prepare_transformations
from ddim.diffusion.loss import Objective
from ddim.diffusion.parameterisation import PredictsNoise
from ddim.diffusion.pixels import Pixels
from ddim.nn import blocks, ema
from ddim.nn.ema import Exponential, HalfLife, Power
from ddim.recipe.codec import override
from ddim.training.validation import validate
from quick_net import QuickNet


def watch_losses(patch):
    """Return a list that fills with what each loss is given: denoiser, images, times, noise, pixels."""
    seen, sound = [], Objective.__call__
    patch.setattr(Objective, "__call__", lambda self, *given: seen.append(given) or sound(self, *given))
    return seen


def recorded(run, monkeypatch):
    """Times and noise that the next update draws, by the image that they meet."""
    with monkeypatch.context() as patch:
        seen = watch_losses(patch)
        found, loss = tiny.gradients(run)
    rows = sorted(
        (float(t), x0.numpy().tobytes(), eps.numpy().tobytes())
        for _, *part, _ in seen
        for x0, t, eps in zip(*part, strict=True)
    )
    return len(seen), rows, found, loss


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("parts", [2, 8])
def test_accumulation_changes_neither_draws_nor_gradients(parts, augmented, monkeypatch):
    recipe = override(tiny.AUGMENTED, {"predicts": "noise"}) if augmented else warm_recipe()
    one, rows, whole, loss = recorded(tiny.training(recipe), monkeypatch)
    recipe = override(recipe, {"optim.accumulate": parts})
    many, rows_in_parts, summed, mean = recorded(tiny.training(recipe), monkeypatch)
    assert (one, many) == (1, parts)
    assert rows_in_parts == rows
    torch.testing.assert_close(mean, loss, rtol=1e-6, atol=1e-6)
    assert any(gradient.abs().max() > 1e-3 for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(summed[name], gradient, rtol=1e-4, atol=1e-6)


def warm_recipe(**changes):
    # Noise is predicted: its error does not vanish at the zeros that the network starts with.
    return replace(tiny.recipe(**changes), predicts=PredictsNoise())


def test_an_update_draws_one_time_in_each_equal_slice(monkeypatch):
    for _ in range(3):
        run = tiny.training(tiny.recipe(objective__times="uniform_times"), updates=1)
        _, rows, *_ = recorded(run, monkeypatch)
        slices = sorted(math.ceil(t * 8) for t, *_ in rows)
        assert slices == list(range(1, 9))


def test_each_update_draws_its_own_noise_and_times(monkeypatch):
    run, other = tiny.training(), tiny.training(tiny.recipe(seed=1))
    drawn = []
    for training in (run, run, other):
        rows = recorded(training, monkeypatch)[1]
        drawn.append(({t for t, *_ in rows}, {eps for *_, eps in rows}))
        training.step += 1
    for (times, noise), (later, fresh) in ((drawn[0], drawn[1]), (drawn[0], drawn[2])):
        assert len(times) == len(noise) == 8
        assert not times & later
        assert not noise & fresh


def test_each_image_of_an_epoch_is_seen_once_and_no_other(monkeypatch):
    run = tiny.training(tiny.recipe(data__flip="false"))
    seen = []
    for _ in range(4):
        seen += [row[1] for row in recorded(run, monkeypatch)[1]]
        run.step += 1
    everything = run.pixels.enter(
        torch.from_numpy(run.split.images.pixels[run.split.train]).permute(0, 3, 1, 2).float() / 255
    )
    assert sorted(seen) == sorted(image.contiguous().numpy().tobytes() for image in everything)


@pytest.mark.parametrize("net", tiny.NETS)
def test_the_same_recipe_gives_the_same_bits_and_another_seed_others(net):
    runs = (tiny.training(tiny.recipe(net, seed=seed), updates=3) for seed in (3, 3, 4))
    one, same, other = map(tiny.bits, runs)
    assert tiny.different(one, same) == []
    assert set(tiny.different(one, other)) >= {name for name in one if name.endswith("exp_avg")}


@pytest.mark.parametrize(("layer", "shared"), [(blocks.Dropout, True), (nn.Dropout, False)])
def test_parts_of_a_batch_share_the_dropout_of_the_project_alone(layer, shared):
    """Torch's layer knows no images: with one seed, it would draw one mask for two images of a batch."""
    masks = []

    class Net(QuickNet):
        def __init__(self):
            super().__init__()
            for block in self.blocks:
                block.dropout = layer(0.3)
            block.dropout.register_forward_hook(lambda layer, given, out: masks.append(out == 0))

    tiny.training(replace(tiny.BASE, net=Net), updates=2)
    tiny.training(replace(tiny.recipe(optim__accumulate=2), net=Net), updates=1)
    whole, later, *parts = masks
    assert torch.equal(whole, torch.stack(parts, 1).flatten(0, 1)) == shared
    assert not torch.equal(whole, later)
    assert not torch.equal(*parts)


def test_dequantisation_noise_is_new_at_each_update_and_absent_in_validation(monkeypatch):
    entered = []
    sound = Pixels.enter
    monkeypatch.setattr(Pixels, "enter", lambda self, x: entered.append(x) or sound(self, x))
    for chosen in (tiny.BASE, tiny.recipe(data__dequantise="true")):
        run = tiny.training(chosen)
        tiny.gradients(run)
        validate(run)
        run.step += 1
        tiny.gradients(run)
    exact, valid, _, seen, same, later = entered
    # The same images, each value v moved into [v, v + 1) of 256.
    assert torch.equal((seen * 256).floor(), (exact * 255).round())
    assert torch.equal(valid, same)
    grain, next_ = ((x * 256 % 1).flatten().sort().values for x in (seen, later))
    assert grain.mean().item() == pytest.approx(0.5, abs=0.02)
    assert not torch.equal(grain, next_)


def test_gradients_are_clipped_to_the_norm_of_the_recipe():
    run = tiny.training(warm_recipe(optim__clip="1e-4"))
    kept = {}
    run.optimizer.register_step_pre_hook(
        lambda *_: kept.update({name: p.grad.clone() for name, p in run.parameters.items()})
    )
    assert run.advance()["gradient_norm"] > 1e-3
    norm = torch.stack([gradient.norm() for gradient in kept.values()]).norm()
    assert norm.item() == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize(
    "rule", [Exponential(0.5, (0.1, 0.3)), Power(6.94, (0.0, 2.5)), HalfLife(20.0, 0.5, (4.0,))], ids=str
)
def test_each_profile_is_the_weighted_mean_of_the_weights_seen(rule):
    """Of weights x_1 ... x_n it is sum_k w_k x_k with w_k = a_k prod_{j > k} (1 - a_j), a_j the rule's."""
    run, n = tiny.training(replace(tiny.recipe("batch norm"), ema=rule)), 6
    seen = []
    for _ in range(n):
        run.advance()
        seen.append({name: value.double().clone() for name, value in ema.select_averaged(run.model).items()})
    main, more = fields(rule)[0].name, run.rules.keys() - {"default"}
    alone = {name: replace(rule, **{main: float(name)}, more=()) for name in more} | {"default": rule}
    assert len(alone) == 1 + len(rule.more)
    for profile in run.rules:
        average = run.averages[profile]
        newest = torch.tensor([alone[profile](k, 8) for k in range(1, n + 1)], dtype=torch.float64)
        kept = torch.cat([(1 - newest).flip(0).cumprod(0).flip(0)[1:], torch.ones(1, dtype=torch.float64)])
        weights = newest * kept
        assert weights.sum().item() == pytest.approx(1)
        for name, value in average.items():
            mean = sum(w * weights_seen[name] for w, weights_seen in zip(weights, seen, strict=True))
            torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-6)
    assert any("running_var" in name for name in run.average)
    assert all(tiny.different(run.average, run.averages[name]) for name in run.averages if name != "default")


@pytest.mark.parametrize("net", ["batch norm", "group norm"])
def test_a_validation_leaves_the_training_untouched_even_when_it_fails(net):
    run = tiny.training(tiny.recipe(net), updates=3)
    before = tiny.bits(run)
    assert {"noise_mae", "image_mae"} < set(validate(run))
    with contextlib.suppress(KeyboardInterrupt), run.averaged() as pipeline:
        assert tiny.different(ema.select_averaged(pipeline.model), run.average) == []
        assert not pipeline.model.training
        raise KeyboardInterrupt
    assert tiny.different(before, tiny.bits(run)) == []
    assert all(module.training for module in run.model.modules())


def test_a_validation_uses_the_ema_weights_and_is_always_the_same():
    run = tiny.training(tiny.recipe(report__validation_images="7"), updates=6)
    found = validate(run)
    assert validate(run) == found
    run.runtime = replace(run.runtime, micro_batch=3)
    assert validate(run) == pytest.approx(found, rel=1e-4)
    with torch.no_grad():
        for name, value in ema.select_averaged(run.model).items():
            value.copy_(run.average[name])
    assert validate(run) == pytest.approx(found, rel=1e-4)
    for value in run.average.values():
        value.add_(0.1)
    assert validate(run)["image_mae"] != pytest.approx(found["image_mae"], rel=1e-2)


def test_a_network_that_predicts_zero_has_the_mean_noise_as_its_error():
    """The error of a prediction of zero noise is E|eps| = sqrt(2 / pi), whatever the images."""
    recipe = replace(tiny.recipe(report__validation_images="400"), predicts=PredictsNoise())
    run = tiny.training(recipe, tiny.images(500))
    for value in run.average.values():
        value.zero_()
    assert validate(run)["noise_mae"] == pytest.approx(math.sqrt(2 / math.pi), rel=5e-3)


def test_the_errors_by_log_snr_add_up_to_the_whole():
    run = tiny.training(tiny.recipe(report__validation_images="400"), tiny.images(500), updates=1)
    found = validate(run)
    times = (torch.arange(100, dtype=torch.float64) + 0.5) / 100
    bins = (run.recipe.schedule(times).log_snr / 2).floor() * 2
    for name in ("noise_mae", "image_mae"):
        parts = {int(b): found[f"{name}/log_snr_{int(b)}"] for b in bins.unique()}
        assert sum(parts[int(b)] for b in bins) / 100 == pytest.approx(found[name], rel=1e-5)
    # Noise hides the image and not itself.
    assert found["image_mae/log_snr_-6"] > found["image_mae/log_snr_0"]
    assert found["noise_mae/log_snr_-6"] < found["noise_mae/log_snr_0"]


def test_images_are_augmented_by_the_labels_that_the_network_gets(monkeypatch):
    """At each step anew, with the images, times and noise that the step has without."""
    seen = watch_losses(monkeypatch)
    for recipe in (tiny.AUGMENTED, override(tiny.AUGMENTED, {"augment.probability": 0})):
        tiny.training(recipe, updates=4)
    told = [denoise.augment for denoise, *_ in seen[:4]]
    for (_, x0, t, eps, _), (plain, *wanted), labels in zip(seen[:4], seen[4:], told, strict=True):
        assert plain.augment is None
        done = prepare_transformations(labels, *x0.shape[2:])
        assert torch.equal(x0, apply_transformations(wanted[0], done))
        assert torch.equal(t, wanted[1])
        assert torch.equal(eps, wanted[2])
    assert not torch.equal(told[0], told[1])
    assert sum(labels.any(1).sum().item() for labels in told) > 16
