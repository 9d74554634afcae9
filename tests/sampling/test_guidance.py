"""Guidance by the model itself without a label, and by a weaker model."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tiny
from ddim.diffusion.denoiser import Model, Shape
from ddim.diffusion.parameterisation import PredictsImage
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.samplers import DDIM, EDM, SAMPLERS
from ddim.diffusion.schedules import Cosine, KarrasSigma
from ddim.errors import UserError
from ddim.machine.runtime import Runtime
from ddim.sampling.generate import generate
from ddim.sampling.pipeline import LoadedCheckpoint, LoadedRun
from ddim.sampling.sampling_setup import Guidance, SamplingSetup, open_guidance
from oracles import Answers, Gaussian, TellsTime

SCHEDULE = Cosine(0.002, 0.9999)
PIXELS = Pixels((0.5,), (0.5,))
STRONG, WEAK = 0.3, 0.9
"""Standard deviations of the data of the two models; both have mean 0.2."""


class Net(Answers):
    """A network that knows Gaussian data; its answers have the classes of a label if it has any."""

    def __init__(self, schedule, std, classes=0):
        super().__init__(Gaussian(schedule, 0.2, std), PredictsImage())
        self.classes, self.seen = classes, []
        self.kept = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64), requires_grad=False)

    def forward(self, scaled, t, label=None):
        self.seen.append(label)
        return super().forward(scaled, t)


def run(std, schedule=SCHEDULE, sha="a", labels=False, size=2, pixels=PIXELS, data=None, **changes):
    """A loaded run whose model is exact for Gaussian data."""
    labels = labels or bool(data)
    fields = {"data": replace(tiny.BASE.data, channels=1, **({"labels": labels} | (data or {})))}
    recipe = replace(tiny.BASE, schedule=schedule, sampler=DDIM(), **fields, **changes)
    net = Net(schedule, std, 2 * labels)
    model = Model(net, schedule, PredictsImage(), TellsTime(), Shape(1, size, size))
    state = SimpleNamespace(step=3, runtime=Runtime())
    place = LoadedCheckpoint(Path(sha), sha, "ema", state, Path(sha), recipe)
    classes = ("a", "b")[: 2 * labels]
    return LoadedRun(model, pixels, recipe, Runtime(micro_batch=64), place, classes=classes)


def guided(scale, low=None, high=None, **changes):
    return Guidance(scale, (low, high), "weak", run(WEAK, sha="b", **changes))


def ratio(scale, low, high, first, last):
    """The deviation of guided samples over that of the noise that they start from, in the variable x / alpha.

    With r = sigma / alpha, the guided flow is dy/dr = r (w (y - m) / (s1^2 + r^2) + (1 - w) (y - m) / (s2^2 +
    r^2)), so y - m grows like (s1^2 + r^2)^(w / 2) (s2^2 + r^2)^((1 - w) / 2).
    """

    def grow(r, w):
        return (STRONG**2 + r**2) ** (w / 2) * (WEAK**2 + r**2) ** ((1 - w) / 2)

    bounds = [math.exp(-end / 2) for end in (low, high)]  # the ratios at which guidance begins and ends
    marks = sorted({first, last, *(min(max(bound, last), first) for bound in bounds)}, reverse=True)
    found = 1.0
    for begin, end in zip(marks, marks[1:], strict=False):
        inside = bounds[1] <= math.sqrt(begin * end) <= bounds[0]
        w = scale if inside else 1.0
        found *= grow(end, w) / grow(begin, w)
    return found


@pytest.mark.parametrize("weak", [SCHEDULE, KarrasSigma(0.0005, 2000.0)], ids=["same schedule", "another"])
@pytest.mark.parametrize("low, high", [(-40.0, 40.0), (-2.0, 2.0)])
@pytest.mark.parametrize("scale", [0.0, 1.5, 3.0])
def test_samples_of_gaussian_data_have_the_spread_of_the_guided_flow(scale, low, high, weak):
    """An exact solution, so the samples of a fine grid come near it, on each schedule of the guide."""
    strong = run(STRONG, grid=tiny.BASE.grid).with_recipe(sampler=EDM(), grid="uniform_log_snr")
    guidance, ends = guided(scale, low, high, schedule=weak), []
    images, _ = generate(
        SamplingSetup(strong, 300, guidance=guidance), range(64), watch=lambda _, state: ends.append(state)
    )
    levels = [SCHEDULE(torch.tensor(state.t, dtype=torch.float64)) for state in (ends[0], ends[-2])]
    first, last = (level.noise_to_signal.item() for level in levels)
    noise = PIXELS.enter(images) * 0 + ends[0].x / levels[0].alpha
    wanted = 0.2 + ratio(scale, low, high, first, last) * (noise - 0.2)
    found = ends[-2].x / levels[1].alpha
    assert torch.allclose(found, wanted, atol=0.02 * wanted.std().item() + 1e-3)


@pytest.mark.parametrize("guidance", [guided(1.0), guided(3.0, 60.0, 70.0)], ids=["scale 1", "none inside"])
def test_guidance_that_does_nothing_changes_no_bit_and_no_nfe(guidance):
    plain, nfe = generate(SamplingSetup(run(STRONG), 7), range(5))
    same, count = generate(SamplingSetup(run(STRONG), 7, guidance=guidance), range(5))
    assert torch.equal(plain, same)
    assert nfe == count == SamplingSetup(run(STRONG), 7, guidance=guidance).count_evaluations() == 7
    assert not torch.equal(plain, generate(SamplingSetup(run(STRONG), 7, guidance=guided(3.0)), range(5))[0])


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("low, high", [(-40.0, 40.0), (-3.0, 1.0), (60.0, 70.0)])
def test_the_nfe_of_a_record_is_that_of_the_samples(kind, low, high):
    sampler = SAMPLERS[kind](variance="large") if kind == "ddpm" else SAMPLERS[kind]()
    one = run(STRONG).with_recipe(sampler=sampler, sampled_on=Cosine(0.01, 0.99))
    guidance = guided(2.0, low, high)
    _, nfe = generate(SamplingSetup(one, 6, guidance=guidance), range(2))
    assert SamplingSetup(one, 6, guidance=guidance).count_evaluations() == nfe
    plain = SamplingSetup(one, 6).count_evaluations()
    assert plain <= nfe <= 2 * plain
    assert (nfe == plain) == (low == 60)


@pytest.mark.parametrize("labels", [True, False])
def test_the_label_goes_to_both_models_if_the_guide_has_labels(labels):
    strong, weak = run(STRONG, labels=True), run(WEAK, sha="b", labels=labels)
    generate(SamplingSetup(strong, 1, "all", Guidance(2.0, None, "weak", weak)), range(4))
    assert strong.model.net.seen[0][:4].tolist() == [0, 1, 0, 1]
    seen = weak.model.net.seen[0]
    assert seen[:4].tolist() == [0, 1, 0, 1] if labels else seen is None


@pytest.fixture(scope="module")
def labelled():
    """A run of two classes, always or sometimes trained with its class."""
    return {share: run(STRONG, data={"labels": True, "unlabelled": share}) for share in (0.0, 0.25)}


def test_guidance_needs_two_evaluations_and_guidance_zero_is_the_sample_of_no_class(labelled):
    seen, plain = labelled[0.25].model.net.seen, {}
    for scale, nfe in ((1.0, 5), (2.0, 10), (0.0, 10)):
        seen.clear()
        plain[scale], count = generate(SamplingSetup(labelled[0.25], 5, 1, Guidance(scale)), range(3))
        # One call evaluates the model with and without the label.
        assert (count, len(seen)) == (nfe, 5)
    none = generate(SamplingSetup(labelled[0.25], 5), range(3))[0]
    assert torch.allclose(plain[0.0], none, atol=1e-4)


@pytest.mark.parametrize(
    ("guide", "said"),
    [
        (run(WEAK, sha="b", size=4), "image size"),
        (run(WEAK, sha="b", pixels=Pixels((0.4,), (0.5,))), "pixels"),
        (run(WEAK, sha="b", schedule=Cosine(0.1, 0.9)), "noise levels on which the guide is trained"),
        (run(WEAK, sha="b", data={"labels": True, "unlabelled": 0}), "without a label"),
    ],
)
def test_a_guide_that_does_not_fit_is_refused(guide, said):
    with pytest.raises(UserError, match=said):
        open_guidance(run(STRONG), None, 5, Guidance(2.0, None, "weak", guide))


def test_a_guide_with_other_classes_is_refused():
    strong, weak = run(STRONG, labels=True), run(WEAK, sha="b", labels=True)
    assert open_guidance(strong, "all", 3, Guidance(2.0, None, "weak", weak)).on
    weak = replace(weak, classes=("b", "a"))
    with pytest.raises(UserError, match="classes"):
        open_guidance(strong, "all", 3, Guidance(2.0, None, "weak", weak))


def test_a_guide_of_fewer_noise_levels_guides_inside_of_them():
    weak = run(WEAK, sha="b", schedule=Cosine(0.1, 0.9))
    chosen = open_guidance(run(STRONG), None, 9, Guidance(2.0, (-4.0, 1.0), "weak", weak))
    assert generate(SamplingSetup(run(STRONG), 9, guidance=chosen), [0])[1] > 9


def test_a_run_always_trained_with_a_class_cannot_guide_itself(labelled):
    assert open_guidance(labelled[0.25], 1, 3, Guidance(2.0)).on
    with pytest.raises(UserError, match="unlabelled"):
        open_guidance(labelled[0.0], 1, 3, Guidance(2.0))


def test_equal_guidance_is_equal_as_text_however_it_is_given():
    for scale in (2, 2.0, np.float32(2), np.int64(2)):
        one = Guidance(scale, [np.float64(-1), math.inf])
        assert one == Guidance(2.0, (-1, None))
        assert json.dumps(one.describe()) == json.dumps(Guidance(2.0, (-1.0, None)).describe())
