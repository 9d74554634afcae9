"""Classes: what a network is told of them in training, and what it makes of them when asked."""

import hashlib
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from ddim.data import Images, SplitImages
from ddim.diffusion.denoiser import Model, Shape
from ddim.diffusion.loss import Objective
from ddim.diffusion.parameterisation import LogSNR, PredictsImage
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.samplers import DDIM
from ddim.diffusion.schedule import equal_log_snr_times, log_snr_range
from ddim.diffusion.schedules import Cosine
from ddim.errors import UserError
from ddim.evaluation.denoising import measure_errors
from ddim.evaluation.diagnose import measure_run_errors
from ddim.machine.runtime import Runtime
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.nn.unet import UNetSpec
from ddim.recipe.codec import override
from ddim.sampling.classes import NULL, count_classes, drop_labels, find_label, label_any_images, label_images
from ddim.sampling.generate import generate, sample
from ddim.sampling.guidance import Guidance
from ddim.sampling.pipeline import Pipeline
from ddim.sampling.recipe_checks import check_label, check_recipe
from ddim.sampling.sampling_setup import SamplingSetup
from ddim.training.validation import validate
from oracles import made, normal, shaken

SIZE = 4
"""Images in a micro-batch of these tests, so that few images fill several."""

LABELLED = override(tiny.BASE, {"data.labels": True, "data.size": 8, "data.unlabelled": 0.25})


def coloured(n=40):
    """Blue and red squares in turn, each of its own brightness."""
    pixels = np.full((n, 8, 8, 3), 40, np.uint8)
    labels = np.arange(n) % 2
    for k, label in enumerate(labels):
        pixels[k, :, :, 0 if label else 2] = 150 + 2 * (k % 40)
    names = tuple(f"{('blue', 'red')[label]}/{k}.png" for k, label in enumerate(labels))
    return Images(pixels, labels, ("blue", "red"), names, hashlib.sha256(pixels.tobytes()).hexdigest())


def training(recipe=LABELLED, **changes):
    recipe = override(recipe, {name.replace("__", "."): value for name, value in changes.items()})
    return tiny.training(count_classes(recipe, coloured()), coloured())


def opened(run, size=SIZE):
    """A training as a trained run."""
    model = run.model.eval().requires_grad_(False)
    return Pipeline(model, run.pixels, run.recipe, Runtime(micro_batch=size))


@pytest.fixture(scope="module")
def trained():
    """A labelled model with weights that are not those at the start."""
    run = training()
    shaken(run.model.net)
    return opened(run)


def seen_by(net):
    """A list that fills with (x, label) of each call of a network."""
    seen = []
    net.register_forward_pre_hook(lambda _, args: seen.append((args[0], args[2])))
    return seen


def redness(x):
    """(B,) how much more red than blue images (B, C, H, W) are."""
    return x[:, 0].mean((1, 2)) - x[:, 2].mean((1, 2))


# --- training -----------------------------------------------------------------------------------------------


def test_a_network_learns_to_sample_each_class():
    run = training(images=3200, optim__batch=16, optim__lr=3e-3)
    for _ in range(200):
        run.advance()
    with run.averaged() as pipeline:
        whole = replace(opened(run), model=pipeline.model)
        blue, red = (redness(generate(SamplingSetup(whole, 10, k), range(8))[0]) for k in (0, 1))
        further = redness(generate(SamplingSetup(whole, 10, 1, Guidance(1.5)), range(8))[0])
    assert blue.max() < -0.2
    assert red.min() > 0.2
    assert further.min() > 0.2


def told(run, monkeypatch):
    """What the next update tells the network: (labels, how red each image is)."""
    rows, sound = [], Objective.__call__

    def spy(self, denoise, x0, *rest):
        rows.append((denoise.label, redness(x0)))
        return sound(self, denoise, x0, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "__call__", spy)
        tiny.gradients(run)
    return [torch.cat(part) for part in zip(*rows, strict=True)]


@pytest.mark.parametrize(
    "changes", [{}, {"optim__accumulate": 4}, {"augment__probability": 0.5, "net__augment": 9}]
)
def test_each_image_has_its_own_class_label_or_none(changes, monkeypatch):
    run = training(optim__batch=32, **changes)
    labels, red = told(run, monkeypatch)
    known = labels != NULL
    assert 4 <= known.sum() < 32
    assert torch.equal(labels[known] == 1, red[known] > 0)
    assert {0, 1} <= set(labels.tolist())


def test_labels_are_dropped_as_often_as_the_recipe_says():
    n, part = 40_000, 0.1
    labels = torch.arange(n) % 3
    found = drop_labels(labels, part, torch.Generator().manual_seed(0))
    hidden = found == NULL
    deviation = (part * (1 - part) / n) ** 0.5
    for kind in range(3):
        assert abs(hidden[labels == kind].double().mean() - part) < 4 * deviation * 3**0.5
    assert torch.equal(found[~hidden], labels[~hidden])
    assert torch.equal(drop_labels(labels, 0.0, torch.Generator().manual_seed(0)), labels)


def test_dropped_labels_are_a_function_of_seed_and_step(monkeypatch):
    def hidden(step, seed=0):
        run = training(optim__batch=32, seed=seed)
        run.step = step
        return (told(run, monkeypatch)[0] == NULL).tolist()

    by_step = [hidden(step) for step in (0, 1, 2)]
    assert hidden(1) == by_step[1]
    assert all(a != b for a, b in itertools.combinations([*by_step, hidden(0, seed=1)], 2))


def test_the_recipe_of_a_run_has_its_number_of_classes():
    counted = count_classes(LABELLED, coloured())
    assert counted.net.classes == 2
    assert count_classes(counted, coloured()) == counted
    plain = override(LABELLED, {"data.labels": False})
    assert count_classes(plain, coloured()) is plain
    assert label_images(plain, coloured(), np.arange(3)) is None


def test_validation_conditions_on_the_class_of_each_image():
    run = training(data__validation=0.5, report__validation_images=20)
    seen = seen_by(run.model.net)
    validate(run)
    x, labels = (torch.cat(part) for part in zip(*seen, strict=True))
    # Times grow: the first images are hardly noisy.
    assert torch.equal(labels[:8] == 1, redness(x[:8]) > 0)
    assert sorted(labels.tolist()) == sorted(coloured().labels[run.split.validation].tolist())


def test_errors_by_level_are_measured_with_class_labels(trained):
    source = coloured()
    own = SplitImages(source, np.arange(40), np.arange(0))
    red = np.arange(1, 21, 2)
    found = measure_run_errors(trained, own, red, 10, 3)
    x0 = trained.pixels.enter(torch.from_numpy(source.pixels[red]).permute(0, 3, 1, 2) / 255)
    schedule = trained.model.schedule
    times = equal_log_snr_times(schedule, *log_snr_range(schedule), 3)
    wanted, other = (measure_errors([(trained.model.with_labels(k), x0)], times) for k in (1, None))
    assert found.noise_mse.shape == (10, 3)
    np.testing.assert_allclose(found.noise_mse, wanted.noise_mse, rtol=1e-4)
    assert not np.allclose(found.noise_mse, other.noise_mse, rtol=1e-2)


# --- the null class -----------------------------------------------------------------------------------------

NETS = {
    "unet": replace(tiny.NETS["layer norm"], classes=3),
    "ddpm_unet": replace(tiny.NETS["group norm"], classes=3),
}


@pytest.mark.parametrize("spec", NETS.values(), ids=NETS)
def test_a_dropped_label_equals_no_label_bit_for_bit(spec):
    net = shaken(made(lambda: spec.network(3)))
    x, t = normal(4, 3, 8, 8, dtype=torch.float32), torch.linspace(-3, 3, 4)
    with torch.no_grad():
        null = net(x, t)
        assert torch.equal(net(x, t, torch.full((4,), NULL)), null)
        mixed = net(x, t, torch.tensor([2, NULL, 0, NULL]))
        assert torch.equal(mixed[[1, 3]], null[[1, 3]])
        for k, label in ((0, 2), (2, 0)):
            alone = net(x, t, torch.full((4,), label))
            assert torch.equal(alone[k], mixed[k])
            assert not torch.allclose(alone[k], null[k], atol=1e-3)


def test_a_network_with_classes_starts_like_one_without():
    with_labels, without = (made(lambda c=c: UNetSpec(classes=c).network(3)) for c in (5, 0))
    more, plain = with_labels.state_dict(), without.state_dict()
    assert set(more) - set(plain) == {"class_embedding.weight"}
    assert all(torch.equal(more[name], plain[name]) for name in plain)
    x, t = normal(5, 3, 8, 8, dtype=torch.float32), torch.zeros(5)
    assert not with_labels(x, t, torch.arange(5)).any()
    torch.nn.init.normal_(with_labels.out_conv.weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(with_labels.out_gain.weight, generator=torch.Generator().manual_seed(1))
    with_labels(x, t, torch.arange(5)).square().mean().backward()
    assert (with_labels.class_embedding.weight.grad.abs().sum(1) > 0).all()


# --- sampling -----------------------------------------------------------------------------------------------


def test_label_all_gives_each_seed_its_class_in_any_batch(trained):
    alone = [generate(SamplingSetup(trained, 3, k), range(8))[0] for k in (0, 1)]
    every = generate(SamplingSetup(trained, 3, "all"), range(8))[0]
    assert not torch.equal(*alone)
    for seed in range(8):
        assert torch.equal(every[seed], alone[seed % 2][seed])
    for seeds in ([7], [3, 6], [6, 5, 4, 3, 2], [1, 3, 5, 7, 0]):
        assert torch.equal(generate(SamplingSetup(trained, 3, "all"), seeds)[0], every[seeds])
        guided = generate(SamplingSetup(trained, 3, "all", Guidance(2.0)), seeds)[0]
        assert torch.equal(
            guided, generate(SamplingSetup(trained, 3, "all", Guidance(2.0)), range(8))[0][seeds]
        )


def test_guidance_one_needs_one_evaluation_and_any_other_two(trained):
    asked = []
    hook = trained.model.net.register_forward_pre_hook(lambda _, args: asked.append(args[2]))
    plain, nfe = generate(SamplingSetup(trained, 5, 1, Guidance(1.0)), range(3))
    assert (nfe, len(asked)) == (5, 5)
    assert torch.equal(plain, generate(SamplingSetup(trained, 5, 1), range(3))[0])
    asked.clear()
    assert generate(SamplingSetup(trained, 5, 1, Guidance(2.0)), range(3))[1] == 10
    hook.remove()
    assert [label is None for label in asked] == [False, True] * 5


def test_guidance_zero_gives_the_sample_of_no_class(trained):
    null, red = (generate(SamplingSetup(trained, 3, label), range(4))[0] for label in (None, 1))
    zero = generate(SamplingSetup(trained, 3, 1, Guidance(0.0)), range(4))[0]
    assert torch.allclose(zero, null, atol=1e-4)
    assert not torch.allclose(red, null, atol=1e-2)


class Knows(torch.nn.Module):
    """A network sure of one gray image for each class, and of another for none."""

    classes = 2

    def __init__(self):
        super().__init__()
        self.gray = torch.nn.Parameter(torch.tensor([0.4, 0.45, 0.5]))  # the last is the null class's

    def forward(self, x, conditioning, label=None):
        label = torch.full((len(x),), NULL) if label is None else label
        return self.gray[label][:, None, None, None].expand_as(x)


def test_guidance_scales_the_distance_from_the_sample_of_no_class():
    schedule = Cosine(0.02, 0.95)
    model = Model(Knows(), schedule, PredictsImage(), LogSNR(), Shape(1, 8, 8)).requires_grad_(False)
    recipe = replace(count_classes(LABELLED, coloured()), clip=False, schedule=schedule, sampler=DDIM())
    run = Pipeline(model, Pixels((0.0,), (1.0,)), recipe, Runtime(micro_batch=SIZE))
    for guidance in (0.0, 0.5, 1.0, 3.0):
        images = sample(run, 4, 3, label="all", guidance=guidance)
        for k, strong in enumerate((0.4, 0.45, 0.4, 0.45)):
            assert torch.allclose(images[k], torch.tensor(0.5 + guidance * (strong - 0.5)), atol=1e-5)


def test_clipping_follows_guidance(trained):
    """Not what guidance is made of: two images within bounds may guide out of them."""
    clipped = trained.with_recipe(clip=True)
    seen = []
    generate(
        SamplingSetup(clipped, 3, 1, Guidance(8.0)), range(4), watch=lambda _, state: seen.append(state.x0)
    )
    low, high = (bound.reshape(-1, 1, 1) for bound in trained.pixels.bounds)
    assert all(((low - 1e-4 <= x0) & (x0 <= high + 1e-4)).all() for x0 in seen)


# --- mistakes -----------------------------------------------------------------------------------------------


def with_data(**changes):
    return count_classes(replace(LABELLED, data=replace(LABELLED.data, **changes)), coloured())


@pytest.mark.parametrize(
    ("recipe", "label", "said"),
    [
        (tiny.BASE, 0, "label must be None, since this run was trained without labels, got 0"),
        (
            with_data(unlabelled=0),
            None,
            "evaluates the network without a class, but this run was trained with a class for every image",
        ),
    ],
)
def test_impossible_labels_are_refused_in_one_sentence(recipe, label, said):
    with pytest.raises(UserError, match=said):
        check_label(recipe, label)


def test_a_run_always_trained_with_a_class_can_sample_a_class():
    check_label(with_data(unlabelled=0), "all")
    check_label(with_data(unlabelled=0), 1)


def test_a_class_that_the_network_does_not_have_is_refused(trained):
    for label in (2, -2):
        with pytest.raises(UserError, match="label must be a class from 0 to 1, or -1 for none, got"):
            trained.model.with_labels(label)
    # Of a picture no class is None alone, which a run may not know.
    for label in (2, NULL, "red"):
        with pytest.raises(UserError, match='label must be a class from 0 to 1, or "all", or left out, got'):
            generate(SamplingSetup(trained, 1, label), [0])


def test_a_class_is_found_by_name_before_index():
    recipe, classes = with_data(), ("1", "0", "frog")
    found = [find_label(text, recipe, classes) for text in ("1", "0", "2", "frog", "all", None, 1)]
    assert found == [0, 1, 2, 2, "all", None, 1]
    with pytest.raises(
        UserError, match=r"""one of the run's 3 classes or "all", got 'frgo'; perhaps you meant frog"""
    ):
        find_label("frgo", recipe, classes)
    for text in ("3", "-1", "", "9" * 5000):
        with pytest.raises(UserError, match=f"3 classes or \"all\", got '{text}'"):
            find_label(text, recipe, classes)


def test_other_images_get_the_class_of_their_folder_name_or_none():
    recipe, other = with_data(), replace(coloured(), classes=("green", "blue"))
    assert label_any_images(recipe, ("blue", "red"), other, np.arange(4)).tolist() == [NULL, 0, NULL, 0]
    unsorted = replace(other, labels=None, classes=())
    assert label_any_images(recipe, ("blue", "red"), unsorted, np.arange(3)).tolist() == [NULL] * 3
    assert label_any_images(tiny.BASE, (), other, np.arange(3)) is None


def test_recipes_that_cannot_use_classes_are_refused_in_one_sentence():
    with pytest.raises(
        UserError, match="data.labels needs a network .* unet or ddpm_unet or dit, got residual_unet"
    ):
        check_recipe(override(LABELLED, {"net": "residual_unet"}))
    with pytest.raises(UserError, match="data.labels needs a network .* got clear_unet"):
        check_recipe(override(LABELLED, {"net": "clear_unet"}))
    with pytest.raises(
        UserError, match="two class folders or more, and no image outside these: blossoms:40 is not sorted"
    ):
        count_classes(LABELLED, tiny.images(8))
    with pytest.raises(
        UserError, match="net.classes must be 2, the number of class folders of blossoms:40, .* 5"
    ):
        count_classes(override(LABELLED, {"net.classes": 5}), coloured())
    with pytest.raises(UserError, match="data.unlabelled must be at least 0 and less than 1, got 1"):
        override(LABELLED, {"data.unlabelled": 1})
    for spec in (UNetSpec, DDPMUNetSpec):
        with pytest.raises(UserError, match="net.classes must be at least 0, got -1"):
            spec(classes=-1)


def test_weights_of_other_classes_can_be_trained_further_without_labels():
    parent = training()
    shaken(parent.model.net)
    with pytest.raises(UserError, match="trained further with --data.labels no"):
        count_classes(parent.recipe, replace(coloured(), classes=("blue", "red", "green")))
    child = training(override(parent.recipe, {"data.labels": False}))
    child.start_from(parent.model.state_dict())
    assert math.isfinite(child.advance()["loss"])


def test_a_grid_search_needs_a_run_that_can_sample_without_a_class(trained):
    from ddim.evaluation.discretisation_error import sample_in_model_units

    always = replace(trained, recipe=with_data(unlabelled=0))
    with pytest.raises(UserError, match="a search for times .* without a class, .*data.unlabelled 0"):
        sample_in_model_units(always, DDIM(), torch.tensor([1.0, 0.5]), [0])
