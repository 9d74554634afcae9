from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from ddim.diffusion.denoiser import Model
from ddim.diffusion.schedules import Cosine, Level, Linear, LinearBeta, Schedule, as_double, check_schedule
from ddim.diffusion.times import log_snr_shares, midpoints, plateaus
from ddim.errors import UserError


def test_the_plateaus_of_the_torch_luz_repository_are_found():
    """Its entries 620 to 999 are clipped to power 0.02, and its first 67 to 0.95."""
    (noisy, noisy_share), (clean, clean_share) = plateaus(Linear(clip="powers", read="floor")).items()
    assert noisy == pytest.approx(torch.logit(torch.tensor(0.02)).item(), abs=1e-6)
    assert clean == pytest.approx(torch.logit(torch.tensor(0.95)).item(), abs=1e-6)
    assert noisy_share == pytest.approx(0.380, abs=1e-3)
    assert clean_share == pytest.approx(0.067, abs=1e-3)


@pytest.mark.parametrize("schedule", [Cosine(), LinearBeta(), Linear(clip="powers", read="floor")], ids=str)
def test_shares_of_log_snr_are_the_times_between_the_edges_of_bins(schedule):
    found = log_snr_shares(schedule, midpoints())
    assert sum(found.values()) == pytest.approx(1)
    for b, share in found.items():
        # Later times hold less signal: a bin lies between the times of its two edges.
        edges = schedule.inverse(torch.tensor([b + 2.0, b], dtype=torch.float64))
        assert share == pytest.approx((edges[1] - edges[0]).item(), abs=1e-4)
    assert max(found.values()) > (0.38 if isinstance(schedule, Linear) else 0.1)


@dataclass(frozen=True)
class Own(Schedule):
    """A schedule that a user wrote."""

    alpha: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, t):
        """See `Schedule`."""
        alpha = self.alpha(as_double(t))
        return Level(alpha, (1 - alpha**2).clamp(0).sqrt())


@pytest.mark.parametrize(
    "alpha, message",
    [
        (lambda t: 0.01 + 0.98 * t, "schedule Own must have a log-SNR that falls"),
        (lambda t: 0.01 + 0.98 * (2 * t - 1).abs(), "a log-SNR that falls"),
        (lambda t: 0.5 + 0 * t, "a log-SNR that falls"),
        (lambda t: t.sqrt() * torch.nan, "got nan, nan"),
        (lambda t: t.mean(), "must return a ddim.Level, alpha and sigma shaped like t"),
    ],
)
def test_a_schedule_of_the_user_must_fall_from_image_to_noise(alpha, message):
    with pytest.raises(UserError, match=message):
        Model(torch.nn.Identity(), Own(alpha))


def test_a_schedule_that_returns_no_level_is_refused():
    with pytest.raises(UserError, match="must return a ddim.Level, .*, got tuple"):
        Model(torch.nn.Identity(), lambda t: (1 - t, t))


def test_a_schedule_of_the_user_may_have_plateaus_and_no_noise_at_all():
    check_schedule(Own(lambda t: (1.5 - 1.5 * t).clamp(0, 1)))
