import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from ddim.data.values import EIGHT_BITS, Values
from ddim.diffusion.schedules import variance_preserving
from ddim.evaluation.noise_range import (
    DISTINGUISHABLE,
    covariance_spectrum,
    divergence_from_noise,
    find_noise_range,
)
from oracles import normal


@pytest.mark.parametrize("count", [5, 40])
@pytest.mark.parametrize("log_snr", [-6.0, 0.0, 3.0])
def test_the_divergence_is_that_of_the_two_gaussians(log_snr, count):
    rows = normal(count, 8) @ normal(8, 8, seed=1) + 0.3
    at = variance_preserving(torch.tensor(log_snr))
    covariance = at.alpha**2 * rows.T.cov() + at.sigma**2 * torch.eye(8, dtype=torch.float64)
    noised = MultivariateNormal(at.alpha * rows.mean(0), covariance)
    start = MultivariateNormal(torch.zeros(8, dtype=torch.float64), torch.eye(8, dtype=torch.float64))
    exact = kl_divergence(noised, start).item()
    assert divergence_from_noise(log_snr, *covariance_spectrum(rows), 8) == pytest.approx(exact, rel=1e-6)


def test_the_noisiest_level_is_where_the_divergence_is_small_enough():
    images = normal(30, 3, 4, 4)
    found = find_noise_range(images, (0.25, 0.25, 0.25), EIGHT_BITS)
    spectrum, square = covariance_spectrum(images.flatten(1))
    assert divergence_from_noise(found.noisiest, spectrum, square, 48) == pytest.approx(
        DISTINGUISHABLE, rel=1e-6
    )
    # Images with four times the deviation can be distinguished from noise with four times the deviation.
    wide = find_noise_range(4 * images, (0.25, 0.25, 0.25), EIGHT_BITS)
    assert found.noisiest - wide.noisiest == pytest.approx(2 * math.log(4), abs=0.5)
    assert found.distance - wide.distance == pytest.approx(2 * math.log(4))


def test_the_distance_is_that_of_the_two_images_that_are_farthest_apart():
    images = torch.zeros(3, 1, 2, 2)
    images[1, 0, 0, 0], images[2, 0, 1, 1] = 3.0, 4.0
    assert find_noise_range(images, (0.5,), EIGHT_BITS).distance == pytest.approx(-2 * math.log(5))


@pytest.mark.parametrize("values", [EIGHT_BITS, Values("uint16", 0, 65535), Values("uint16", 100, 1100)])
def test_the_cleanest_level_has_the_noise_of_rounding(values):
    std = 0.2
    exact = torch.linspace(0, 1, 1_000_003, dtype=torch.float64)
    count = values.high - values.low
    rounding = ((exact * count).round() / count - exact).std().item() / std
    found = find_noise_range(normal(4, 1, 2, 2), (std,), values).cleanest
    assert math.exp(-found / 2) == pytest.approx(rounding, rel=1e-3)


def test_floats_have_no_cleanest_level():
    assert find_noise_range(normal(4, 1, 2, 2), (0.2,), Values("float32", 0, 1)).cleanest is None
