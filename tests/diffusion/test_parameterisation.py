import pytest
import torch

from ddim.diffusion.denoiser import Model, Shape
from ddim.diffusion.parameterisation import (
    CNoise,
    LogSNR,
    NoiseVariance,
    Prediction,
    PredictsEDM,
    PredictsFlow,
    PredictsImage,
    PredictsNoise,
    PredictsScore,
    PredictsVelocity,
    SignalVariance,
    Timestep,
    from_image,
    velocity,
)
from ddim.diffusion.schedules import (
    Cosine,
    KarrasSigma,
    Level,
    Linear,
    LinearBeta,
    LinearPath,
    variance_preserving,
)
from oracles import Gaussian, normal, uniform

ALL = [
    PredictsNoise(),
    PredictsScore(),
    PredictsImage(),
    PredictsVelocity(),
    PredictsEDM(),
    PredictsEDM(0.5),
    PredictsFlow(),
]


class Net(torch.nn.Module):
    """A network that mixes its inputs and keeps them."""

    def forward(self, x, condition, label=None):
        self.x, self.condition = x, condition
        return 0.3 * x.flip(0) + condition.reshape(-1, 1, 1, 1)


def from_noise(x_t, eps, at):
    """Ho et al. 2020, eq. 15."""
    return Prediction((x_t - at.sigma * eps) / at.alpha, eps)


def from_velocity(x_t, v, at):
    """Salimans & Ho 2022, appendix D, with any norm of the rates."""
    norm = at.alpha**2 + at.sigma**2
    return Prediction((at.alpha * x_t - at.sigma * v) / norm, (at.sigma * x_t + at.alpha * v) / norm)


def test_velocity_is_the_derivative_by_the_angle():
    """Salimans & Ho 2022, appendix D: x_phi = cos(phi) x0 + sin(phi) eps, v = d x_phi / d phi."""
    angle = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x0, eps = normal(1).squeeze(), normal(1, seed=1).squeeze()
    (angle.cos() * x0 + angle.sin() * eps).backward()
    at = Level(angle.detach().cos(), angle.detach().sin())
    assert velocity(Prediction(x0, eps), at) == pytest.approx(angle.grad.item())


@pytest.mark.parametrize("schedule", [Cosine(), LinearBeta(), KarrasSigma()], ids=str)
@pytest.mark.parametrize(
    "predicts, read",
    [(PredictsNoise(), from_noise), (PredictsImage(), from_image), (PredictsVelocity(), from_velocity)],
)
def test_coefficients_agree_with_the_algebra(predicts, read, schedule):
    x, t, net = normal(8, 3, 2, 2), 0.05 + 0.95 * uniform(8), Net()
    through = Model(net, schedule, predicts, NoiseVariance(), Shape(3, 2, 2))(x, t)
    direct = read(x, Net()(net.x, net.condition), schedule(t).over(x))
    assert torch.allclose(through.x0, direct.x0)
    assert torch.allclose(through.eps, direct.eps)


def test_the_score_is_the_gradient_of_the_log_density_times_sigma():
    """Torch derives the known density of x_t for normal data of mean 0.3 and deviation 0.5."""
    for schedule in (Cosine(), KarrasSigma()):
        x = normal(8, 1, 2, 2).requires_grad_()
        t = torch.tensor(0.6, dtype=torch.float64)
        at = schedule(t)
        law = torch.distributions.Normal(0.3 * at.alpha, (0.25 * at.alpha**2 + at.sigma**2).sqrt())
        (score,) = torch.autograd.grad(law.log_prob(x).sum(), x)
        c = PredictsScore()(at)
        x0 = c.skip * x + c.out * (at.sigma * score)
        exact = Gaussian(schedule, 0.3, 0.5)(x, t)
        assert torch.allclose(x0, exact.x0)


@pytest.mark.parametrize(
    "predicts, std", [(PredictsVelocity(), 1.0), (PredictsEDM(), 0.5), (PredictsEDM(1.0), 1.0)]
)
@pytest.mark.parametrize("log_snr", [-6.0, -1.0, 0.0, 3.0])
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_the_network_sees_and_gives_unit_variance(predicts, std, log_snr, scale):
    vp = variance_preserving(torch.tensor(log_snr))
    at = Level(scale * vp.alpha, scale * vp.sigma)  # EDM's own levels are not variance preserving
    x0, eps = std * normal(200_000), normal(200_000, seed=1)
    x_t, c = at.alpha * x0 + at.sigma * eps, predicts(at)
    assert (c.inp * x_t).std().item() == pytest.approx(1, abs=0.01)
    wanted = ((x0 - c.skip * x_t) / c.out).std().item()
    # Velocity has unit variance where the rates have; EDM's target always.
    assert wanted == pytest.approx(scale if predicts == PredictsVelocity() else 1, rel=0.01)


@pytest.mark.parametrize("schedule", [LinearPath(), Cosine(), KarrasSigma()], ids=str)
def test_the_flow_is_noise_minus_image_on_any_schedule(schedule):
    x0, eps, at = normal(8), normal(8, seed=1), schedule(0.05 + 0.9 * uniform(8))
    c = PredictsFlow()(at)
    assert torch.allclose(c.skip * (at.alpha * x0 + at.sigma * eps) + c.out * (eps - x0), x0)


def test_the_network_gets_the_value_of_its_conditioning():
    t = uniform(20)
    for schedule in (Cosine(), LinearBeta()):
        at = schedule(t)
        assert torch.allclose(NoiseVariance()(t, at) + SignalVariance()(t, at), torch.ones_like(t))
        assert (NoiseVariance()(t, at)[t.argsort()].diff() > 0).all()
        odds = SignalVariance()(t, at) / NoiseVariance()(t, at)
        assert torch.allclose(LogSNR(scale=3.0)(t, at) * 3, odds.log())


def test_a_timestep_is_the_index_of_the_entry_whose_level_it_is():
    table = Linear(50, 1e-3, 0.3, clip="none", read="log_snr")
    index = torch.arange(50, dtype=torch.float64)
    t = (index + 1) / 50
    condition = Timestep(50)(t, table(t))
    assert torch.allclose(condition, index, rtol=0, atol=1e-9)
    assert torch.allclose(table(t).alpha ** 2, table.powers[condition.round().long()], rtol=1e-9)


def test_c_noise_is_a_logarithm_of_the_noise_on_a_clean_image_of_weight_one():
    """Karras et al. 2022, table 1: log(sigma) / 4 for EDM, log(sigma / 2) for VE, at any alpha."""
    sigma = torch.tensor([0.002, 0.5, 2.0, 80.0], dtype=torch.float64)
    for alpha in (1.0, 0.3):
        at = Level(torch.full_like(sigma, alpha), alpha * sigma)
        condition = CNoise()(torch.zeros(4), at)
        assert torch.allclose((4 * condition).exp(), sigma)
        assert torch.allclose(2 * CNoise(1.0, 2.0)(torch.zeros(4), at).exp(), sigma)


@pytest.mark.parametrize("schedule", [LinearPath(), Cosine(), KarrasSigma()], ids=str)
def test_a_flow_network_sees_the_point_of_the_straight_path(schedule):
    """Of the path (1 - u) x0 + u eps, the point where the SNR is that of the schedule."""
    x0, eps, at = normal(8), normal(8, seed=1), schedule(0.05 + 0.9 * uniform(8))
    u = torch.sigmoid(-at.log_snr / 2)
    seen = PredictsFlow()(at).inp * (at.alpha * x0 + at.sigma * eps)
    assert torch.allclose(seen, (1 - u) * x0 + u * eps)


def test_edm_sees_only_the_ratio_of_noise_to_signal():
    vp = Cosine()(uniform(8))
    ve = Level(torch.ones_like(vp.alpha), vp.sigma / vp.alpha)
    a, b = PredictsEDM(0.5)(vp), PredictsEDM(0.5)(ve)
    for ours, theirs in ((a.inp * vp.alpha, b.inp), (a.skip * vp.alpha, b.skip), (a.out, b.out)):
        assert torch.allclose(ours, theirs)


def test_edm_and_velocity_are_one_for_data_of_unit_variance():
    at = Cosine()(uniform(8))
    edm, v = PredictsEDM(1.0)(at), PredictsVelocity()(at)
    assert torch.allclose(edm.skip, v.skip)
    assert torch.allclose(edm.out.abs(), v.out.abs())
    assert torch.allclose(edm.inp, v.inp)
