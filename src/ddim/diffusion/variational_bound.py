"""The variational bound on the likelihood of 8-bit images, term by term, in bits per dimension.

-log p(x0) <= KL(q(x_1 | x0) || p) + sum over steps of KL(q(x_s | x_t, x0) || p(x_s | x_t)) - log p(x0 | x_t),
where the last t is the cleanest (Ho et al. 2020, eq. 5; Nichol & Dhariwal 2021, eq. 4 to 7).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ddim.diffusion.gaussian import Step, kl, log_probability, step
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.prediction import Prediction
from ddim.diffusion.schedules import Level, Schedule
from ddim.errors import UserError

Variance = Literal["small", "large", "learned"]
"""That of p(x_s | x_t): of `Step`, or between them by the mix that a network predicts."""


def steps(schedule: Schedule, t: Tensor, s: Tensor, least: Tensor) -> Step:
    """The steps from times t to s, (B,) or (); s = 0 stands for the picture, which is free of noise.

    The step to the picture has `least` (), a variance, for its small one, which is 0: a learned variance
    could not come near it (Nichol & Dhariwal take that of the step before).
    """
    then = schedule(s)
    end = s <= 0
    clean = Level(torch.where(end, 1.0, then.alpha), torch.where(end, 0.0, then.sigma))
    q = step(schedule(t), clean)
    return replace(q, small=torch.where(end, least, q.small))


def step_bits(p: Prediction, x_t: Tensor, x0: Tensor, q: Step, variance: Variance) -> Tensor:
    """(B,) KL(q(x_s | x_t, x0) || p(x_s | x_t)) of images (B, C, H, W), for steps q () or (B,)."""
    q = _over(q, x_t)
    mean, wanted = (q.of_x * x_t + q.of_x0 * image for image in (p.x0, x0))
    apart = kl(wanted, q.log_variance(torch.zeros_like(x0)), mean, _log_variance(p, q, variance))
    return bits(apart)


def picture_bits(p: Prediction, x0: Tensor, q: Step, variance: Variance, pixels: Pixels) -> Tensor:
    """(B,) -log p(x0 | x_t) of 8-bit images in model units, for the step q to the picture.

    "small" is here as "large", for no variance is left of q(x0 | x_t, x0).
    """
    q = _over(q, x0)
    deviation = (_log_variance(p, q, "learned" if variance == "learned" else "large") / 2).exp()
    std = deviation * pixels.units.reshape(-1, 1, 1).to(x0)
    return bits(-log_probability(pixels.values(x0).round(), pixels.values(p.x0), std))


def prior_bits(x0: Tensor, at: Level) -> Tensor:
    """(B,) KL(q(x_1 | x0) || N(0, alpha^2 + sigma^2)), for the level () at which a run starts."""
    at = at.over(x0)
    start = (at.alpha**2 + at.sigma**2).log()
    return bits(kl(at.alpha * x0, 2 * at.sigma.log(), torch.zeros_like(x0), start))


def bits(nats: Tensor) -> Tensor:
    """(B, C, H, W) nats -> (B,) mean bits."""
    return nats.flatten(1).mean(1) / math.log(2)


def _log_variance(p: Prediction, q: Step, variance: Variance) -> Tensor:
    """(B, C, H, W) that of p; UserError where the learned one is asked of a network that predicts none."""
    if variance == "learned":
        if p.mix is None:
            raise UserError("variance is learned, but this network predicts none: give it net.outputs 2")
        return q.log_variance(p.mix)
    return q.log_variance(torch.full_like(p.x0, variance == "large"))


def _over(q: Step, x: Tensor) -> Step:
    """The step, shaped, typed and placed to multiply x."""
    shape = (-1,) + (1,) * (x.ndim - 1)
    return Step(*(value.reshape(shape).to(x) for value in (q.of_x, q.of_x0, q.small, q.large)))
