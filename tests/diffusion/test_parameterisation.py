import pytest
import torch

from ddim.diffusion.denoiser import Model
from ddim.diffusion.parameterisation import (
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
    quantity,
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
from ddim.recipe.named import find_recipe
from oracles import Answers, Gaussian, TellsTime, normal, uniform

T = 0.05 + 0.9 * uniform(8)


class Net(torch.nn.Module):
    """A network that mixes its inputs and keeps them."""

    def forward(self, x, condition):
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
    x0, eps = normal(2)
    (angle.cos() * x0 + angle.sin() * eps).backward()
    at = Level(angle.detach().cos(), angle.detach().sin())
    assert quantity(Prediction(x0, eps), at, "velocity") == pytest.approx(angle.grad.item())


@pytest.mark.parametrize("schedule", [Cosine(), LinearBeta(), KarrasSigma()], ids=str)
@pytest.mark.parametrize(
    "predicts, read",
    [(PredictsNoise(), from_noise), (PredictsImage(), from_image), (PredictsVelocity(), from_velocity)],
)
def test_coefficients_agree_with_the_algebra(predicts, read, schedule):
    x, net = normal(8, 3, 2, 2), Net()
    through = Model(net, schedule, predicts, NoiseVariance(), (3, 2, 2))(x, T)
    direct = read(x, Net()(net.x, net.condition), schedule(T).over(x))
    assert torch.allclose(through.x0, direct.x0)
    assert torch.allclose(through.eps, direct.eps)


@pytest.mark.parametrize("schedule", [Cosine(), KarrasSigma()], ids=str)
def test_the_score_is_the_gradient_of_the_log_density_times_sigma(schedule):
    """Torch derives the known density of x_t for normal data of mean 0.3 and deviation 0.5."""
    x, at = normal(8, 1, 2, 2).requires_grad_(), schedule(0.6)
    law = torch.distributions.Normal(0.3 * at.alpha, (0.25 * at.alpha**2 + at.sigma**2).sqrt())
    (score,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    c = PredictsScore()(at)
    assert torch.allclose(c.skip * x + c.out * (at.sigma * score), Gaussian(schedule, 0.3, 0.5)(x, 0.6).x0)


@pytest.mark.parametrize(
    "predicts, std", [(PredictsVelocity(), 1.0), (PredictsEDM(), 0.5), (PredictsEDM(1.0), 1.0)]
)
@pytest.mark.parametrize("log_snr", [-6.0, 0.0, 3.0])
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_the_network_sees_and_gives_unit_variance(predicts, std, log_snr, scale):
    vp = variance_preserving(torch.tensor(log_snr))
    at = Level(scale * vp.alpha, scale * vp.sigma)  # EDM's own levels are not variance preserving
    x0, eps = std * normal(200_000), normal(200_000, seed=1)
    x_t, c = at.alpha * x0 + at.sigma * eps, predicts(at)
    assert (c.inp * x_t).std().item() == pytest.approx(1, abs=0.01)
    target = ((x0 - c.skip * x_t) / c.out).std().item()
    # Velocity has unit variance where the rates have; EDM's target always.
    assert target == pytest.approx(scale if predicts == PredictsVelocity() else 1, rel=0.01)


every_schedule = pytest.mark.parametrize("schedule", [LinearPath(), Cosine(), KarrasSigma()], ids=str)


@every_schedule
def test_the_flow_is_noise_minus_image_on_any_schedule(schedule):
    x0, eps, at = normal(8), normal(8, seed=1), schedule(T)
    c = PredictsFlow()(at)
    assert torch.allclose(c.skip * (at.alpha * x0 + at.sigma * eps) + c.out * (eps - x0), x0)


@every_schedule
def test_a_flow_network_sees_the_point_of_the_straight_path(schedule):
    """Of the path (1 - u) x0 + u eps, the point where the SNR is that of the schedule."""
    x0, eps, at = normal(8), normal(8, seed=1), schedule(T)
    u = torch.sigmoid(-at.log_snr / 2)
    seen = PredictsFlow()(at).inp * (at.alpha * x0 + at.sigma * eps)
    assert torch.allclose(seen, (1 - u) * x0 + u * eps)


@pytest.mark.parametrize("schedule", [Cosine(), LinearBeta()], ids=str)
def test_the_network_gets_the_value_of_its_conditioning(schedule):
    at = schedule(T)
    noise, signal = NoiseVariance()(T, at), SignalVariance()(T, at)
    assert torch.allclose(noise + signal, torch.ones_like(T))
    assert (noise[T.argsort()].diff() > 0).all()
    assert torch.allclose(LogSNR(scale=3.0)(T, at) * 3, (signal / noise).log())


def test_a_timestep_is_the_index_of_the_entry_whose_level_it_is():
    table, index = Linear(50, 1e-3, 0.3), torch.arange(50, dtype=torch.float64)
    t = (index + 1) / 50
    condition = Timestep(50)(t, table(t))
    assert torch.allclose(condition, index, rtol=0, atol=1e-9)
    assert torch.allclose(table(t).alpha ** 2, table.powers[condition.round().long()], rtol=1e-9)


# --- the four preconditionings of Karras et al. 2022, table 1, as recipes -----------------------------------


def table_1(name, sigma):
    """c_skip, c_out, c_in and lambda at a noise level, from the paper's table."""
    one = torch.ones_like(sigma)
    if name == "edm":
        c_out = sigma * 0.5 / (0.25 + sigma**2).sqrt()
        weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
        return 0.25 / (sigma**2 + 0.25), c_out, 1 / (sigma**2 + 0.25).sqrt(), weight
    if name == "edm-ve":
        return one, sigma, one, 1 / sigma**2
    return one, -sigma, 1 / (sigma**2 + 1).sqrt(), 1 / sigma**2


@pytest.mark.parametrize("name", ["edm", "edm-vp", "edm-ve", "edm-iddpm"])
def test_a_recipe_has_the_preconditioning_and_the_loss_of_its_column_in_table_1(name):
    """The loss is lambda |D - x0|^2, which is |F - its target|^2 in all four: lambda c_out^2 = 1 (B.6)."""
    recipe = find_recipe(name)
    t = recipe.objective.times(uniform(512, seed=3), recipe.schedule)
    at = recipe.schedule(t)
    skip, out, inp, weight = table_1(name, at.noise_to_signal)
    c = recipe.predicts(at)
    for ours, theirs in ((c.skip * at.alpha, skip), (c.out, out), (c.inp * at.alpha, inp)):
        assert torch.allclose(ours, theirs, rtol=1e-9)
    if name in ("edm", "edm-ve"):
        c_noise = at.noise_to_signal.log() / 4 if name == "edm" else (at.noise_to_signal / 2).log()
        assert torch.allclose(recipe.conditioning(t, at), c_noise)

    x0, eps = 0.5 * normal(512, 3, 4, 4), normal(512, 3, 4, 4, seed=1)
    wrong = Gaussian(recipe.schedule, mean=0.2, std=0.6)
    net = Answers(wrong, recipe.predicts)
    cost = recipe.objective(Model(net, recipe.schedule, recipe.predicts, TellsTime()), x0, t, eps)
    x_t, c = at.noisy(x0, eps), recipe.predicts(at.over(x0))
    mean_square = lambda values: values.square().flatten(1).mean(1)
    assert torch.allclose(cost, weight * mean_square(wrong(x_t, t).x0 - x0), rtol=1e-6)
    target = (x0 - c.skip * x_t) / c.out
    assert torch.allclose(cost, mean_square(net(c.inp * x_t, t) - target), rtol=1e-6)
