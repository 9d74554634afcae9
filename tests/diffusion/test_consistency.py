"""Consistency tuning, against normal data: their consistency function is known in closed form."""

from dataclasses import dataclass, replace

import pytest
import torch
from scipy.optimize import brentq

from ddim.diffusion.guidance import Guided
from ddim.diffusion.loss import Consistency
from ddim.diffusion.parameterisation import from_image
from ddim.diffusion.schedules import Cosine, KarrasSigma, LinearBeta
from oracles import Gaussian, TrueConsistency, normal, uniform

SCHEDULES = [Cosine(0.014, 0.99995), KarrasSigma(), LinearBeta()]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
N = 512
X0, EPS = 0.3 + 0.5 * normal(N, 1, 16, 16), normal(N, 1, 16, 16, seed=1)
LOSS = Consistency()


def draw_times(schedule, n=N):
    return LOSS.times(uniform(n, seed=2), schedule)


class Images:
    """A denoiser whose image is a function of x_t and t; it keeps its calls and their gradient mode."""

    def __init__(self, schedule, image):
        self.schedule, self.image, self.asked = schedule, image, []

    def __call__(self, x_t, t):
        self.asked.append((x_t, t, torch.is_grad_enabled()))
        return from_image(x_t, self.image(x_t, t), self.schedule(t).over(x_t))


@dataclass
class Bent:
    """The true consistency function with its deviations from the mean multiplied by tau^power."""

    schedule: object
    power: torch.Tensor
    true: object

    def __call__(self, x_t, t):
        at = self.schedule(t).over(x_t)
        image = self.true(x_t, t).x0
        return from_image(x_t, 0.3 + at.noise_to_signal**self.power * (image - 0.3), at)


def find_power(schedule, progress, taught):
    """The power at which the mean gradient of the loss is 0: what training finds if nothing else can bend.

    With a teacher, the images have another distribution than the predictions of the teacher.
    """
    t = schedule.inverse(2 - 3 * uniform(N, seed=2))
    teacher = Guided(Gaussian(schedule), Gaussian(schedule), 1.0)
    x0, eps = teacher.move(0.8 - X0, t, EPS, exact=True) if taught else (X0, EPS)

    def slope(value):
        power = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        bent = Bent(schedule, power, TrueConsistency(schedule))
        LOSS.at(progress, 0)(bent, x0, t, eps, None).mean().backward()
        return power.grad.item()

    return brentq(slope, -1.0, 1.0, xtol=1e-4)


@every_schedule
def test_the_loss_at_the_start_is_least_for_the_exact_denoiser(schedule):
    """At r = 0 the loss is that of a diffusion model, and asks the network once."""
    oracle, t = Gaussian(schedule), draw_times(schedule)
    cost = lambda denoise: LOSS.at(0.0, 0)(denoise, X0, t, EPS, None).mean()
    assert cost(oracle) < min(cost(replace(oracle, mean=mean)) for mean in (0.25, 0.35))
    assert cost(oracle) < min(cost(replace(oracle, std=std)) for std in (0.4, 0.6))
    watched = Images(schedule, lambda x_t, t: x_t)
    LOSS(watched, X0, t, EPS)
    assert len(watched.asked) == 1


@every_schedule
@pytest.mark.parametrize("taught", [False, True], ids=["images", "teacher"])
def test_training_finds_the_true_consistency_function_as_the_gap_shrinks(schedule, taught):
    """Consistency training and distillation have the probability flow as their limit.

    See Song et al. 2023, theorems 1 and 2. The flow of a teacher does not depend on the images.
    """
    powers = [abs(find_power(schedule, progress, taught)) for progress in (0.25, 0.5, 0.75, 1.0)]
    # The gap shrinks by 4 each time.
    assert powers[1] < 0.5 * powers[0]
    assert powers[2] < 0.5 * powers[1]
    assert powers[3] < 0.01


@every_schedule
@pytest.mark.parametrize("progress", [0.2, 1.0])
def test_both_noise_levels_have_the_same_image_and_noise_and_only_the_later_one_a_gradient(
    schedule, progress
):
    watched, t = Images(schedule, lambda x_t, t: x_t), draw_times(schedule)
    LOSS.at(progress, 0)(watched, X0, t, EPS, None)
    (x_r, r, with_gradient), (x_t, asked, later) = watched.asked
    assert not with_gradient
    assert later
    assert torch.equal(asked, t)
    assert (r <= t).all()
    for x, at in ((x_r, r), (x_t, t)):
        assert torch.allclose(x, schedule(at).noisy(X0, EPS))


@pytest.mark.parametrize("schedule", SCHEDULES[:2], ids=lambda s: type(s).__name__)
def test_below_the_cleanest_level_the_target_is_the_image_itself(schedule):
    """No network is trained on less noise than the schedule has, so r is 0 there."""

    zero = Images(schedule, lambda x_t, t: torch.zeros_like(x_t))
    cleanest = schedule(0.0).noise_to_signal.item()
    t = schedule.inverse(-2 * torch.tensor([1.001 * cleanest + 1e-12], dtype=torch.float64).log())
    found = LOSS.at(1.0, 0)(zero, X0[:1], t, EPS[:1], None)
    whole = X0[:1].square().mean().sqrt() / schedule(t).noise_to_signal
    assert torch.allclose(found, whole, rtol=0.02)
