import pytest
import torch

from ddim.diffusion.likelihood import kl, log_density, log_probability, posterior
from ddim.diffusion.schedules import Cosine, Level, LinearBeta

GRID = torch.linspace(-30, 30, 60_001, dtype=torch.float64)


def number(value):
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("schedule", [Cosine(0.05, 0.999), LinearBeta()], ids=str)
def test_a_posterior_follows_bayes_rule(schedule):
    """q(x_s | x_t, x0) is proportional to q(x_t | x_s) q(x_s | x0), on a grid of x_s."""
    now, then = schedule(number(0.6)), schedule(number(0.45))
    x0, x_t = 0.7, -0.4
    ratio = now.alpha / then.alpha
    spread = (now.sigma**2 - (ratio * then.sigma) ** 2).sqrt()
    law = (
        -(((x_t - ratio * GRID) / spread) ** 2) / 2 - ((GRID - then.alpha * x0) / then.sigma) ** 2 / 2
    ).exp()
    law = law / law.sum()
    mean = (law * GRID).sum()
    q = posterior(now, then)
    assert (q.x_weight * x_t + q.x0_weight * x0).item() == pytest.approx(mean.item(), abs=1e-9)
    assert q.small.item() == pytest.approx((law * (GRID - mean) ** 2).sum().item(), rel=1e-9)
    assert q.large.item() == pytest.approx(spread.item() ** 2, rel=1e-9)


def test_the_step_to_a_clean_image_is_that_image():
    q = posterior(Cosine()(number(0.3)), Level(number(1.0), number(0.0)))
    assert (q.x_weight.item(), q.x0_weight.item(), q.small.item()) == (0, 1, 0)
    assert q.large == Cosine()(number(0.3)).sigma ** 2
    assert q.log_variance("small").isfinite()


def test_the_kl_divergence_is_the_integral_that_defines_it():
    a, b, m, n = 0.3, 1.4, 0.5, -0.2
    p, q = (log_density(GRID - mean, number(v)) for mean, v in ((m, a), (n, b)))
    wanted = (p.exp() * (p - q)).sum() * (GRID[1] - GRID[0])
    found = kl(number(m), number(a).log(), number(n), number(b).log())
    assert found.item() == pytest.approx(wanted.item(), abs=1e-9)
    assert kl(number(m), number(a).log(), number(m), number(a).log()) == 0


@pytest.mark.parametrize("mean, std", [(128.3, 0.4), (3.0, 20.0), (250.0, 60.0), (-40.0, 10.0)])
def test_the_probabilities_of_all_values_add_up_to_one(mean, std):
    values = torch.arange(256, dtype=torch.float64)
    mass = log_probability(values, number(mean), number(std)).exp()
    # What is under the least probability is lifted to it.
    assert mass.sum().item() == pytest.approx(1, abs=1e-9)
    inside = values[10:246]
    points = inside[:, None] + torch.linspace(-0.5, 0.5, 1001, dtype=torch.float64)
    wanted = torch.trapezoid(log_density(points - mean, number(std**2)).exp(), points, dim=1)
    assert torch.allclose(mass[10:246], wanted, rtol=1e-4, atol=2e-12)


def test_both_tails_keep_their_digits():
    """The mass far to the right rounds to 1 - 1 unless it is taken from the other side."""
    left, right = (log_probability(number(128 + d), number(128.0), number(1.0)) for d in (-6.0, 6.0))
    assert left.item() == pytest.approx(right.item(), rel=1e-9)
    single = log_probability(torch.tensor(134.0), torch.tensor(128.0), torch.tensor(1.0))
    assert single.item() == pytest.approx(right.item(), rel=1e-4)


def test_the_learned_variance_goes_from_small_to_large_in_the_logarithm():
    q = posterior(Cosine()(number(0.6)), Cosine()(number(0.5)))
    ends = [q.log_variance("learned", number(mix)).item() for mix in (0.0, 0.5, 1.0)]
    assert ends[0] == pytest.approx(q.small.log().item())
    assert ends[2] == pytest.approx(q.large.log().item())
    assert ends[1] == pytest.approx((ends[0] + ends[2]) / 2)
