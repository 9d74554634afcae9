from dataclasses import replace

import numpy as np
import pytest
import torch

from ddim.diffusion.denoiser import Model
from ddim.diffusion.loss import EDMWeight, Hybrid, MinSNR, Objective
from ddim.diffusion.parameterisation import PARAMETERISATIONS, PredictsFlow, from_image
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import Cosine, KarrasSigma, Linear, LinearBeta, LinearPath
from ddim.diffusion.times import NormalLogSNR, TableTimes, UniformTimes
from oracles import Answers, Gaussian, TellsTime, made, normal, uniform

N = 2048
X0, EPS = 0.3 + 0.5 * normal(N, 3, 2, 2), normal(N, 3, 2, 2, seed=1)
T = 0.02 + 0.98 * uniform(N, seed=2)
every_quantity = pytest.mark.parametrize("on", ["noise", "image", "velocity", "flow"])
every_error = pytest.mark.parametrize("error", ["l1", "mse", "huber"])


class Blind:
    """A denoiser that always predicts an image of one gray."""

    schedule = Cosine()

    def __call__(self, x_t, t):
        return from_image(x_t, torch.full_like(x_t, 0.1), self.schedule(t).over(x_t))


@every_quantity
@every_error
def test_the_exact_prediction_has_the_least_error(on, error):
    oracle, objective = Gaussian(Cosine()), Objective(on, error)
    cost = lambda denoise: objective(denoise, X0, T, EPS).mean()
    assert cost(oracle) < min(cost(replace(oracle, mean=mean)) for mean in (0.2, 0.4))
    assert cost(oracle) < min(cost(replace(oracle, std=std)) for std in (0.4, 0.6))


@every_quantity
def test_the_error_does_not_depend_on_what_the_network_predicts(on):
    oracle, objective = Gaussian(Cosine(), mean=0.2), Objective(on)
    wanted = objective(oracle, X0, T, EPS)
    for predicts in (kind() for kind in PARAMETERISATIONS.values()):
        model = Model(Answers(oracle, predicts), Cosine(), predicts, TellsTime(), (3, 2, 2))
        assert torch.allclose(objective(model, X0, T, EPS), wanted)


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
    errors = Objective("image", error)(Blind(), 3 * X0, T, EPS)
    assert np.allclose(errors, of(0.1 - 3 * X0.numpy()).reshape(N, -1).mean(1))


def test_noise_image_and_velocity_errors_differ_by_known_factors():
    """As x_t is fixed, an error d of the image is alpha / sigma d of the noise and d / sigma of v."""
    at = Cosine()(T)
    image, noise, v = (Objective(on, "l1")(Blind(), X0, T, EPS) for on in ("image", "noise", "velocity"))
    assert torch.allclose(noise, image * at.alpha / at.sigma)
    assert torch.allclose(v, image / at.sigma)


def test_the_loss_on_the_flow_is_that_of_flow_matching():
    """Lipman et al. 2023, eq. 23: the error of the network, whose target is noise minus image."""
    net = made(lambda: torch.nn.Conv2d(3, 3, 1, dtype=torch.float64))
    model = Model(lambda x, condition: net(x), LinearPath(), PredictsFlow(), shape=(3, 2, 2))
    u = LinearPath()(T).sigma[:, None, None, None]
    wanted = (net((1 - u) * X0 + u * EPS) - (EPS - X0)).square().mean((1, 2, 3))
    assert torch.allclose(Objective("flow", "mse")(model, X0, T, EPS), wanted)


@every_quantity
@pytest.mark.parametrize(
    "schedule", [Cosine(0.02, 1.0), LinearBeta(), Linear(), LinearPath(1e-6, 1.0)], ids=str
)
@pytest.mark.parametrize("times", [UniformTimes(), NormalLogSNR(mean=8, std=20), TableTimes()], ids=str)
def test_the_loss_is_finite_at_every_time_that_training_may_draw(times, schedule, on):
    """torch.rand can give 0; under these schedules t = 0 has no noise to predict."""
    t = times(torch.tensor([0.0, 2**-24, 1e-4, 0.5, 0.9998, 0.9999, 1 - 2**-24]), schedule)
    assert t.dtype == torch.float64
    assert ((t > 0) | (schedule(t).sigma > 0)).all()
    loss = Objective(on, "l1")(Gaussian(schedule), X0[:7].float(), t, EPS[:7].float())
    assert loss.isfinite().all()


@every_quantity
@pytest.mark.parametrize("schedule", [Cosine(), LinearPath(), KarrasSigma()], ids=str)
def test_the_weight_of_edm_is_that_of_the_squared_error_of_the_image(on, schedule):
    """So with `finish`, whose loss is on the velocity, each noise level keeps its weight."""
    oracle, weight = Gaussian(schedule, mean=0.2), EDMWeight(0.5)
    image = Objective("image", "mse", weight=weight)(oracle, X0, T, EPS)
    assert torch.allclose(Objective(on, "mse", weight=weight)(oracle, X0, T, EPS), image)
    finish = Objective(on, "l1", weight=weight, finish=0.5).at(1.0, 0)
    assert torch.allclose(finish(oracle, X0, T, EPS), image)


def test_the_weights_of_min_snr_are_those_of_the_paper():
    """Hang et al. 2023, section 3.4: 1 / SNR and 1 / (SNR + 1) times min(SNR, gamma)."""
    at = Cosine()(T)
    snr = at.log_snr.exp()
    assert torch.allclose(MinSNR()(at, "noise"), snr.clamp(max=5) / snr)
    assert torch.allclose(MinSNR()(at, "velocity"), snr.clamp(max=5) / (snr + 1))


def test_the_finish_replaces_the_loss_at_the_end_of_training():
    loss = Objective("noise", "l1", finish=0.25, finish_after=100)
    for progress, seen, wanted in (
        (0.74, 100, loss),
        (0.75, 99, loss),
        (0.75, 100, Objective("velocity", "mse")),
        (1.0, 100, Objective("velocity", "mse")),
    ):
        assert torch.equal(loss.at(progress, seen)(Blind(), X0, T, EPS), wanted(Blind(), X0, T, EPS))


def test_the_bound_of_a_hybrid_loss_is_over_the_table_of_the_schedule():
    """Without a recipe too, which would give its times the number of entries."""
    net = Model(lambda x, condition: torch.cat([x, 0 * x], dim=1), Linear(entries=100), shape=(1, 4, 4))
    pixels, x0, eps = Pixels.fixed(0.5, 0.5, 1), uniform(8, 1, 4, 4), normal(8, 1, 4, 4)
    losses = [
        Hybrid(times=TableTimes(entries))(net, x0, torch.full((8,), 0.5), eps, pixels)
        for entries in (None, 100)
    ]
    assert torch.equal(*losses)
