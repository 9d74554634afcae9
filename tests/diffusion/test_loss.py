from dataclasses import replace

import numpy as np
import pytest
import torch

from ddim.diffusion.denoiser import Model, Shape
from ddim.diffusion.loss import EDMWeight, MinSNR, Objective, Unweighted
from ddim.diffusion.parameterisation import (
    PredictsEDM,
    PredictsFlow,
    PredictsImage,
    PredictsNoise,
    PredictsVelocity,
    from_image,
)
from ddim.diffusion.schedules import Cosine, KarrasSigma, Linear, LinearBeta, LinearPath
from ddim.diffusion.times import NormalLogSNR, TableTimes, UniformTimes
from ddim.errors import UserError
from oracles import Answers, Gaussian, TellsTime, made, normal, uniform

N = 64
X0, EPS, T = 0.3 + 0.5 * normal(N, 3, 4, 4), normal(N, 3, 4, 4, seed=1), 0.02 + 0.98 * uniform(N, seed=2)
every_quantity = pytest.mark.parametrize("on", ["noise", "image", "velocity", "flow"])
every_error = pytest.mark.parametrize("error", ["l1", "mse", "huber"])
UNIFORM = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000


class Blind:
    """A denoiser that always predicts an image of one gray, and keeps its input."""

    schedule = Cosine()

    def __init__(self, gray=0.1):
        self.gray = gray

    def __call__(self, x_t, t):
        self.asked = x_t, t
        return from_image(x_t, torch.full_like(x_t, self.gray), self.schedule(t).over(x_t))


@every_quantity
@every_error
def test_the_exact_prediction_has_the_least_error(on, error):
    oracle, objective = Gaussian(Cosine()), Objective(on, error)
    n = 2048
    x0, eps, t = 0.3 + 0.5 * normal(n, 3, 2, 2), normal(n, 3, 2, 2, seed=1), uniform(n, seed=2)
    cost = lambda denoise: objective(denoise, x0, t, eps).mean()
    assert cost(oracle) < min(cost(replace(oracle, mean=mean)) for mean in (0.2, 0.4))
    assert cost(oracle) < min(cost(replace(oracle, std=std)) for std in (0.4, 0.6))


@every_quantity
@every_error
def test_the_error_does_not_depend_on_what_the_network_predicts(on, error):
    oracle = Gaussian(Cosine(), mean=0.2)
    costs = [
        Objective(on, error)(
            Model(Answers(oracle, predicts), Cosine(), predicts, TellsTime(), Shape(3, 4, 4)), X0, T, EPS
        )
        for predicts in (
            PredictsNoise(),
            PredictsImage(),
            PredictsVelocity(),
            PredictsEDM(0.5),
            PredictsFlow(),
        )
    ]
    for cost in costs:
        assert torch.allclose(cost, Objective(on, error)(oracle, X0, T, EPS))


def test_the_loss_evaluates_the_denoiser_at_the_noisy_image():
    denoise = Blind()
    Objective()(denoise, X0, T, EPS)
    x_t, t = denoise.asked
    assert torch.equal(t, T)
    at = Cosine()(T)
    for i in range(0, N, 7):
        assert torch.allclose(x_t[i], at.alpha[i] * X0[i] + at.sigma[i] * EPS[i])


@pytest.mark.parametrize(
    "error, of",
    [
        ("l1", np.abs),
        ("mse", lambda d: d**2),
        # Huber 1964: a parabola to 1, from there a line.
        ("huber", lambda d: np.where(np.abs(d) < 1, d**2 / 2, np.abs(d) - 0.5)),
    ],
)
def test_the_error_of_the_image_is_the_mean_over_its_numbers(error, of):
    x0 = 3 * X0
    found = Objective("image", error)(Blind(), x0, T, EPS)
    assert found.shape == (N,)
    assert np.allclose(found, of(0.1 - x0.numpy()).reshape(N, -1).mean(1))


def test_noise_image_and_velocity_errors_differ_by_known_factors():
    """As x_t is fixed, an error d of the image is alpha / sigma d of the noise and d / sigma of v."""
    at = Cosine()(T)
    image, noise, v = (Objective(on, "l1")(Blind(), X0, T, EPS) for on in ("image", "noise", "velocity"))
    assert torch.allclose(noise, image * at.alpha / at.sigma)
    assert torch.allclose(v, image / at.sigma)


def test_the_loss_on_the_flow_is_that_of_flow_matching():
    """Lipman et al. 2023, eq. 23: the error of the network, whose target is noise minus image."""
    net = made(lambda: torch.nn.Conv2d(3, 3, 1, dtype=torch.float64))
    model = Model(lambda x, condition: net(x), LinearPath(), PredictsFlow(), shape=(3, 4, 4))
    u = LinearPath()(T).sigma[:, None, None, None]
    wanted = (net((1 - u) * X0 + u * EPS) - (EPS - X0)).square().mean((1, 2, 3))
    assert torch.allclose(Objective("flow", "mse")(model, X0, T, EPS), wanted)


@every_quantity
@every_error
def test_each_image_has_its_own_error(on, error):
    objective, oracle = Objective(on, error), Gaussian(Cosine(), mean=-1.0)
    whole = objective(oracle, X0, T, EPS)
    assert torch.allclose(objective(oracle, X0[9:11], T[9:11], EPS[9:11]), whole[9:11])
    assert torch.allclose(objective(oracle, X0.flip(0), T.flip(0), EPS.flip(0)), whole.flip(0))


@every_quantity
@pytest.mark.parametrize(
    "schedule",
    [
        Cosine(),
        Cosine(0.02, 1.0),
        LinearBeta(),
        Linear(),
        Linear(clip="none", read="log_snr"),
        LinearPath(1e-6, 1.0),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "times", [UniformTimes(), NormalLogSNR(), NormalLogSNR(mean=8, std=20), TableTimes()], ids=str
)
def test_the_loss_is_finite_at_every_time_that_training_may_draw(times, schedule, on):
    """torch.rand can give 0; under these schedules t = 0 has no noise to predict."""
    edges = torch.tensor([0.0, 2**-24, 1e-4, 0.5, 0.9998, 0.9999, 1 - 2**-24])
    t = times(edges, schedule)
    assert t.dtype == torch.float64
    assert ((t > 0) | (schedule(t).sigma > 0)).all()
    x0, eps = normal(7, 1, 2, 2, dtype=torch.float32), normal(7, 1, 2, 2, seed=1, dtype=torch.float32)
    loss = Objective(on, "l1")(Gaussian(schedule), x0, t, eps)
    assert loss.isfinite().all()


def test_a_weighting_multiplies_the_error_at_each_level():
    """lambda(sigma) of Karras et al. 2022, table 1, at any alpha; the default weights all levels equally."""
    assert Objective().weight == Unweighted()
    for schedule in (Cosine(), KarrasSigma()):
        oracle = Gaussian(schedule, mean=0.2)
        plain, weighted = Objective("image", "l1"), Objective("image", "l1", weight=EDMWeight(0.5))
        at = schedule(T)
        sigma = at.sigma / at.alpha
        known = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
        assert torch.allclose(weighted(oracle, X0, T, EPS), known * plain(oracle, X0, T, EPS))


@every_quantity
@pytest.mark.parametrize("schedule", [Cosine(), LinearPath(), KarrasSigma()], ids=str)
def test_the_weight_of_edm_is_that_of_the_squared_error_of_the_image(on, schedule):
    """So with `finish`, whose loss is on the velocity, each noise level keeps its weight."""
    oracle, weight = Gaussian(schedule, mean=0.2), EDMWeight(0.5)
    image = Objective("image", "mse", weight=weight)(oracle, X0, T, EPS)
    assert torch.allclose(Objective(on, "mse", weight=weight)(oracle, X0, T, EPS), image)
    finish = Objective(on, "l1", weight=weight, finish=0.5).at(1.0, 0)
    assert torch.allclose(finish(oracle, X0, T, EPS), image)


def test_gradients_reach_the_network():
    class Scales(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, x, condition, label=None):
            return self.factor * x

    model = Model(Scales(), Cosine(), PredictsNoise(), TellsTime(), Shape(3, 4, 4))
    Objective("noise", "mse")(model, X0, T, EPS).mean().backward()
    # x_t holds noise, so that more of it in the output lowers the error.
    assert model.net.factor.grad < -0.1


@pytest.mark.parametrize("schedule", [Cosine(), LinearPath(), KarrasSigma()], ids=str)
@every_quantity
def test_min_snr_weighs_the_squared_error_of_the_image(on, schedule):
    """Whatever the loss is on, it is min(SNR, gamma) times the squared error of the image."""
    oracle = Gaussian(schedule, mean=0.2)
    found = Objective(on, "mse", weight=MinSNR(3.0))(oracle, X0, T, EPS)
    snr = schedule(T).log_snr.exp()
    assert (snr > 3).any()
    assert (snr < 3).any()
    assert torch.allclose(found, snr.clamp(max=3.0) * Objective("image", "mse")(oracle, X0, T, EPS))


def test_the_weights_of_min_snr_are_those_of_the_paper():
    """Hang et al. 2023, section 3.4: 1 / SNR and 1 / (SNR + 1) times min(SNR, gamma)."""
    at = Cosine()(T)
    snr = at.log_snr.exp()
    least = snr.clamp(max=5)
    assert torch.allclose(MinSNR()(at, "noise"), least / snr)
    assert torch.allclose(MinSNR()(at, "velocity"), least / (snr + 1))


def test_impossible_weightings_are_refused():
    with pytest.raises(UserError, match=r"objective\.weight\.gamma must be above 0, got 0"):
        MinSNR(0)
    with pytest.raises(UserError, match=r"objective\.weight\.sigma_data must be above 0, got"):
        EDMWeight(0.0)


def test_the_finish_replaces_the_loss_at_the_end_of_training():
    loss = Objective("noise", "l1", finish=0.25)
    oracle = Gaussian(Cosine(), mean=0.2)
    cost = lambda objective: objective(oracle, X0, T, EPS)
    assert torch.equal(cost(loss.at(0.74, 0)), cost(Objective("noise", "l1")))
    for progress in (0.75, 1.0):
        assert torch.equal(cost(loss.at(progress, 0)), cost(Objective("velocity", "mse")))
    assert torch.equal(
        cost(Objective("noise", "l1", finish=1.0).at(0.0, 0)), cost(Objective("velocity", "mse"))
    )
    assert Objective("noise", "l1").at(1.0, 10**9) == Objective("noise", "l1")


def test_the_finish_begins_only_after_the_images_of_finish_after():
    loss = Objective("noise", "l1", finish=0.25, finish_after=1000)
    begins = {(part, seen): loss.at(part, seen) != loss for part in (0.74, 0.75, 1.0) for seen in (999, 1000)}
    assert begins == {(part, seen): part >= 0.75 and seen == 1000 for part, seen in begins}


def test_the_finish_leads_from_the_median_of_the_images_to_their_mean():
    """If one image in four is 1 and the others are 0, their median is 0 and their mean 0.25."""
    x0 = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)[:, None, None, None]
    t, eps = torch.full((4,), 0.9, dtype=torch.float64), normal(4, 1, 1, 1)
    loss = Objective("noise", "l1", finish=0.5)
    guesses = torch.arange(0, 1.01, 0.05, dtype=torch.float64)

    def best(objective):
        costs = [objective(Blind(guess.item()), x0, t, eps).mean() for guess in guesses]
        return guesses[torch.stack(costs).argmin()].item()

    assert best(loss.at(0.0, 0)) == 0
    assert best(loss.at(0.5, 0)) == pytest.approx(0.25)


@pytest.mark.parametrize("finish", [-0.1, 1.1, float("nan")])
def test_an_impossible_finish_is_refused(finish):
    with pytest.raises(UserError, match=r"objective\.finish must lie in \[0, 1\], got"):
        Objective(finish=finish)
