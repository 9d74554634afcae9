import math

import pytest
import torch

from ddim.evaluation.gradient_noise import NoiseScale, estimate_noise_scale
from oracles import normal, uniform


def linear(away, tau, batches, batch, seed=0):
    """Return gradients (batches, d) of half the squared error of w . x, for x ~ N(0, 1) and noise tau.

    The weights w differ from the true ones by `away`.
    """
    x = normal(batches, batch, len(away), seed=seed)
    error = x @ away + tau * normal(batches, batch, seed=seed + 1)
    return (error[..., None] * x).mean(1)


@pytest.mark.parametrize("batch", [1, 8])
def test_the_scale_of_a_linear_model_is_its_closed_form(batch):
    """E[(v . x)^2 |x|^2] = (d + 2) |v|^2 for normal x, so tr(Sigma) = (d + 1) |v|^2 + d tau^2."""
    away, tau = normal(6, seed=9), 0.7
    found = estimate_noise_scale(linear(away, tau, 4000, batch), batch)
    square = away.square().sum().item()
    noise = 7 * square + 6 * tau**2
    assert found.signal == pytest.approx(square, rel=0.1)
    assert found.noise == pytest.approx(noise, rel=0.1)
    assert found.value == pytest.approx(noise / square, rel=0.1)
    assert found.low < noise / square < found.high


def test_the_estimates_are_unbiased_with_few_batches():
    away, tau, square = torch.full((5,), 0.3, dtype=torch.float64), 1.0, 0.45
    found = [estimate_noise_scale(linear(away, tau, 4, 2, seed=2 * k), 2) for k in range(1500)]
    mean = lambda name: sum(getattr(f, name) for f in found) / len(found)
    assert mean("signal") == pytest.approx(square, rel=0.1)
    assert mean("noise") == pytest.approx(6 * square + 5, rel=0.05)


def test_the_noise_is_that_of_batches_with_stratified_times():
    """Image i of B has the gradient a + b t_i + tau e_i, t_i uniform in slice i: Var t_i = 1 / (12 B^2)."""
    batch, d, tau = 4, 3, 0.2
    a, b = normal(d, seed=5), 2 * normal(d, seed=6)
    t = (torch.arange(batch) + uniform(4000, batch, seed=7)) / batch
    each = a + b * t[..., None] + tau * normal(4000, batch, d, seed=8)
    found = estimate_noise_scale(each.mean(1), batch)
    assert found.signal == pytest.approx((a + b / 2).square().sum().item(), rel=0.02)
    assert found.noise == pytest.approx(b.square().sum().item() / (12 * batch**2) + d * tau**2, rel=0.05)


@pytest.mark.parametrize("batches", [4, 16])
def test_the_intervals_hold_the_truth_in_about_95_percent_of_cases(batches):
    away, tau = torch.full((5,), 0.5, dtype=torch.float64), 0.5
    truth = (6 * 1.25 + 5 * 0.25) / 1.25
    found = [estimate_noise_scale(linear(away, tau, batches, 16, seed=2 * k), 16) for k in range(400)]
    held = sum(f.low <= truth <= f.high for f in found) / len(found)
    assert 0.93 < held < 0.99


def test_gradients_that_are_only_noise_have_an_infinite_scale():
    found = estimate_noise_scale(torch.eye(6), 4)
    assert (found.value, found.high) == (math.inf, math.inf)
    assert found.signal == pytest.approx(0, abs=1e-12)


def test_equal_gradients_have_no_noise():
    found = estimate_noise_scale(torch.tensor([[3.0, 4.0], [3.0, 4.0], [3.0, 4.1]]), 10)
    assert found.value == pytest.approx(10 * (0.1**2 / 3) / 25, rel=0.05)


@pytest.mark.parametrize(
    "scale, low, high, said",
    [
        (1000, 800, 1200, "far below it: gradients are mostly noise, and larger batches would help"),
        (20, 15, 30, "near it: larger batches would help little"),
        (2, 1, 3, "far above it: smaller batches would train as well"),
    ],
)
def test_a_batch_is_compared_with_the_noise_scale(scale, low, high, said):
    sentence = NoiseScale(scale, low, high, 1.0, scale).compare_batch(16)
    assert said in sentence
    assert "too wide" not in sentence


def test_an_interval_that_allows_another_conclusion_is_said_to():
    sentence = NoiseScale(20, 11, math.inf, 1.0, 20).compare_batch(16)
    assert "near it" in sentence
    assert sentence.endswith("too wide to be certain of this.")


def test_larger_batches_are_recommended_if_the_scale_cannot_be_measured():
    sentence = NoiseScale(math.inf, 300, math.inf, -1.0, 20).compare_batch(16)
    assert "too large to be measured, at least 300 images" in sentence
    assert "larger batches would help" in sentence
    assert "little" not in sentence
