import math

import pytest
import torch
from torch import nn

from ddim.diffusion.denoiser import Model, choose_part
from ddim.diffusion.grids import GRIDS, Listed
from ddim.diffusion.noise import Noise
from ddim.diffusion.parameterisation import (
    LogSNR,
    NoiseVariance,
    PredictsEDM,
    PredictsImage,
    PredictsNoise,
    PredictsScore,
    PredictsVelocity,
)
from ddim.diffusion.samplers import SAMPLERS, initial_noise, last_state
from ddim.diffusion.schedules import Cosine, KarrasSigma, Linear, LinearBeta, time_of_ratio
from ddim.errors import UserError
from oracles import Answers, Gaussian, made, normal, uniform

all_parameterisations = pytest.mark.parametrize(
    "predicts",
    [PredictsNoise(), PredictsScore(), PredictsImage(), PredictsVelocity(), PredictsEDM(0.5)],
    ids=str,
)


class Net(nn.Module):
    """A network whose output depends on its condition, and which keeps its conditions and labels."""

    def __init__(self, classes=0, dtype=None):
        super().__init__()
        self.classes, self.dtype, self.seen = classes, dtype, []

    def forward(self, x, condition, label=None):
        self.seen.append((condition, label))
        F = x.tanh() + condition.reshape(-1, 1, 1, 1)
        F = F if label is None else F + label.reshape(-1, 1, 1, 1)
        return F if self.dtype is None else F.to(self.dtype)


def model(net=None, schedule=Cosine(), predicts=PredictsVelocity(), conditioning=LogSNR()):
    return Model(net or Net(), schedule, predicts, conditioning, (3, 4, 5))


@all_parameterisations
@pytest.mark.parametrize("schedule", [Cosine(), LinearBeta(), Linear(), KarrasSigma()], ids=type)
def test_image_and_noise_add_up_to_x_t_whatever_the_network_outputs(predicts, schedule):
    x, t = normal(8, 3, 4, 5), 0.1 + 0.9 * uniform(8)
    p, at = model(schedule=schedule, predicts=predicts)(x, t), schedule(t).over(x)
    assert torch.allclose(at.alpha * p.x0 + at.sigma * p.eps, x)


def test_one_time_stands_for_all_and_each_image_has_its_own():
    x, t = normal(4, 3, 4, 5), torch.tensor([0.2, 0.9, 0.5, 0.2], dtype=torch.float64)
    whole = model()(x, t)
    for i in range(4):
        for time in (t[i].item(), t[i], t[i : i + 1]):
            assert torch.allclose(model()(x[i : i + 1], time).x0, whole.x0[i : i + 1])
    assert torch.equal(model()(x, t[0]).x0, model()(x, t[:1].expand(4)).x0)


def test_a_network_in_bf16_gets_images_in_bf16_and_all_digits_of_the_noise_level():
    class Small(nn.Conv2d):
        def forward(self, x, condition):
            seen.append(condition)
            return super().forward(x)

    seen, net = [], made(lambda: Small(3, 3, 1).bfloat16())
    small = Model(net, Linear(), conditioning="timestep", shape=(3, 4, 5))
    p = small(small.blank(2), 1.0)
    assert seen[0].tolist() == [999, 999]
    assert p.x0.dtype == torch.float32


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 9])
def test_a_network_with_another_number_of_channels_is_refused(channels):
    wrong = model(lambda x, condition: x[:, :1].expand(-1, channels, -1, -1))
    with pytest.raises(UserError, match="must return images"):
        wrong(normal(2, 3, 4, 5), 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prediction_and_conditioning_have_the_type_of_the_image(dtype):
    net = Net(dtype=torch.bfloat16)
    p = model(net)(normal(2, 3, 4, 5, dtype=dtype), 0.5)
    assert p.x0.dtype == p.eps.dtype == net.seen[0][0].dtype == dtype


def test_coefficients_of_almost_equal_rates_keep_their_digits_in_float32():
    """1 - alpha^2 = 1e-8 would be 0 or 6e-8 if the coefficients were formed in float32."""
    schedule, net = Cosine(0.02, 1.0), Net()
    t = schedule.inverse(torch.tensor([18.4], dtype=torch.float64))
    model(net, schedule, PredictsImage(), NoiseVariance())(torch.zeros(1, 3, 4, 5), t)
    assert net.seen[0][0].item() == pytest.approx(math.exp(-18.4), rel=1e-3)


@pytest.mark.parametrize("schedule", [KarrasSigma(), Cosine(), LinearBeta()], ids=type)
def test_a_model_asked_by_sigma_is_the_denoiser_of_karras_et_al(schedule):
    """D(x, sigma) of normal data of mean 0.3 and deviation 0.5, for x = x0 + sigma eps, on any schedule."""
    sigma = torch.tensor([0.1, 0.7, 5.0], dtype=torch.float64)
    seen, x = [], normal(3, 3, 4, 5)

    def net(scaled, condition):
        seen.append(condition)
        return Answers(Gaussian(schedule), PredictsEDM(0.5))(scaled, time_of_ratio(schedule, condition))

    asked = model(net, schedule, PredictsEDM(0.5), "sigma").denoise_at_sigma(x, sigma)
    over = sigma[:, None, None, None]
    assert torch.allclose(asked, 0.3 + 0.25 / (0.25 + over**2) * (x - 0.3), atol=1e-6)
    assert torch.allclose(seen[0], sigma)


def test_a_label_reaches_the_network_for_each_image():
    net = Net(classes=5)
    whole, x = model(net), normal(3, 3, 4, 5)
    for label, labels in ((2, [2, 2, 2]), (torch.tensor([0, 4, -1]), [0, 4, -1])):
        assert torch.equal(whole.with_labels(label)(x, 0.5).x0, whole(x, 0.5, torch.tensor(labels)).x0)
        assert net.seen[-2][1].tolist() == labels
    assert not torch.equal(whole.with_labels(2)(x, 0.5).x0, whole.with_labels(None)(x, 0.5).x0)
    for other, label in ((whole, 5), (model(), 0)):
        with pytest.raises(UserError, match="label must be one of the"):
            other.with_labels(label)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_plain_function_is_sampled_at_times_that_are_numbers(name):
    """The function is the exact velocity of a Gaussian, given the noise variance of each image."""
    oracle = Gaussian(LinearBeta())

    def net(x, noise_variance):
        t = oracle.schedule.inverse(((1 - noise_variance) / noise_variance).double().log())
        return Answers(oracle, PredictsVelocity())(x, t)

    mine = Model(net, oracle.schedule, "velocity", "noise_variance", shape=(3, 4, 4))
    runs = []
    for denoise in (mine, oracle):
        noise = Noise([3, 4])
        x = initial_noise(denoise.schedule, noise, mine.blank(2), 1.0)
        runs.append(last_state(SAMPLERS[name]()(denoise, x, [1.0, 0.6, 0.2], noise)).x0)
    assert torch.allclose(*runs, atol=1e-4)


def test_parts_can_be_given_by_name_and_a_grid_as_its_times():
    named = Model(nn.Identity(), "karras_sigma", conditioning="noise_variance")
    assert (named.schedule, named.conditioning) == (KarrasSigma(), NoiseVariance())
    with pytest.raises(UserError, match="schedule must be one of cosine.*; perhaps you meant cosine"):
        Model(nn.Identity(), "cosin")
    for times in ([1, 0.5, 0.1], torch.tensor([1, 0.5, 0.1], dtype=torch.float64)):
        assert choose_part("grid", times, GRIDS) == Listed((1.0, 0.5, 0.1))


def test_a_network_must_return_images_of_its_shape():
    for net in (lambda x, t: x[:, :1], lambda x, t: x[:1], lambda x, t: x[:, :, ::2]):
        with pytest.raises(UserError, match=r"must return images \(2, 3, 4, 5\), got"):
            model(net)(normal(2, 3, 4, 5), 0.5)
