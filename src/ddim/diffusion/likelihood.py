"""Bits per dimension of 8-bit images under a model: how short its lossless code for them could be.

Two measures of one law: the variational bound, of the model that DDPM samples from, and the probability flow,
of the model that deterministic samplers follow. x0 (B, C, H, W) are 8-bit images in model units; each gives
its own number.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.gaussian import log_density, step
from ddim.diffusion.grids import Uniform, UniformLogSNR
from ddim.diffusion.noise import Noise
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import Linear, Schedule
from ddim.diffusion.variational_bound import Variance, bits, picture_bits, prior_bits, step_bits, steps
from ddim.errors import UserError, check_count

CLEAN = 0.05
"""The most noise, relative to the signal, under which 8-bit values can be told apart."""

FIRST = 0.25
"""The noise, in 8-bit values, at which the flow takes an image over.

It takes the image for one that has so much noise already. Of a law that is 1.8 values wide, noise of 1.3
values costs 0.05 bits, and this nothing that can be measured.
"""

LAST = 0.7
"""The noise, in 8-bit values, at which the steps of the bound end.

With less, steps pay for the place within a bin, which no value tells; with more, the last guess, a normal law
so wide, is wider than narrow laws are. On the schedule of edm 1000 steps are loose by 0.37, 0.16, 0.14 and
0.15 bits at 0.25, 0.5, 0.7 and 1 of a law 1.8 values wide, by 0.33, 0.11, 0.09 and 0.08 of one 25 wide; on
those of other recipes too the narrow law has its least at 0.7. Flat images would have less.
"""


def check(schedule: Schedule, earliest: float = 0.0) -> None:
    """UserError for a schedule that, from the `earliest` time trained on, never comes near to an image."""
    at = schedule(torch.tensor(earliest, dtype=torch.float64))
    bar = (at.sigma / at.alpha).item()
    if bar > CLEAN:
        raise UserError(
            f"likelihood needs a schedule and times of training whose least noise is at most {CLEAN}, in "
            f"which 8-bit values can be told apart, got {bar:.3g}"
        )


def entries(schedule: Schedule) -> float:
    """How many levels a schedule has: those of its table, else infinitely many."""
    return schedule.entries if isinstance(schedule, Linear) else math.inf


def grid(steps: int, schedule: Schedule, pixels: Pixels, earliest: float = 0.0) -> Tensor:
    """(steps,) decreasing times for the bound, in equal steps of log-SNR; UserError if steps < 1.

    From t = 1 to noise `LAST`, or to the cleanest level from the `earliest` time trained on. A table, of
    which nothing but the entries is trained, is walked evenly over them.
    """
    if isinstance(schedule, Linear):
        return Uniform()(steps, schedule)
    return UniformLogSNR(_clean(schedule, pixels, LAST, earliest))(steps, schedule)


@torch.no_grad()
def vlb(
    denoise: Denoiser,
    x0: Tensor,
    pixels: Pixels,
    times: Tensor,
    noise: Noise,
    variance: Variance = "large",
) -> Tensor:
    """(B,) bits per dimension: the variational bound over the steps of decreasing `times` (T,), T >= 2.

    UserError for fewer, or for more than a table has `entries`.

    `variance` is that of the steps of p. "large" is right where an image is smooth at the scale of the noise,
    as near its end all are; "learned" needs a network that predicts it. One draw of noise a step: unbiased.
    """
    if len(times) < 2:
        raise UserError(f"the bound needs at least 2 steps, got {len(times)}")
    schedule = denoise.schedule
    if len(times) > entries(schedule):
        # Between them nothing was trained; of equal levels the last step would have no variance at all.
        raise UserError(
            f"the bound needs at most {entries(schedule)} steps, the entries of the schedule's table, "
            f"got {len(times)}"
        )
    total = prior_bits(x0, schedule(times[0])).double()
    least = step(schedule(times[-2]), schedule(times[-1])).small
    for t, s in pairwise([*times, torch.zeros_like(times[0])]):
        x_t = schedule(t).noisy(x0, noise.like(x0))
        p, q = denoise(x_t, t), steps(schedule, t, s, least)
        if s > 0:
            total += step_bits(p, x_t, x0, q, variance)
        else:
            total += picture_bits(p, x0, q, variance, pixels)
    return total


def flow(
    denoise: Denoiser,
    x0: Tensor,
    pixels: Pixels,
    noise: Noise,
    steps: int = 50,
    trace: Literal["estimated", "exact"] = "estimated",
    earliest: float = 0.0,
) -> Tensor:
    """(B,) bits per dimension along the probability flow (Song et al. 2021b, eq. 39); 4 evaluations a step.

    From noise `FIRST`, or the cleanest level from the `earliest` time trained on, to t = 1, in equal steps of
    log-SNR by Runge and Kutta's classical rule, of order 4. Each 8-bit value is spread evenly over its bin,
    so that the density bounds the probability of the values (Theis et al. 2016, section 3.1). The divergence
    is "exact", an evaluation a number of an image, or "estimated" by one random sign for each (Hutchinson
    1990; Grathwohl et al. 2019, eq. 7): unbiased. UserError for a schedule that is a table read by "floor".
    """
    check_count("steps", steps)
    schedule = denoise.schedule
    first = _clean(schedule, pixels, FIRST, earliest)
    end = schedule(torch.ones((), dtype=torch.float64)).log_snr.item()
    clock = -torch.linspace(first, end, 2 * steps + 1, dtype=torch.float64) / 2
    times = schedule.inverse(-2 * clock)
    if not torch.allclose(-schedule(times).log_snr / 2, clock, atol=1e-6):
        raise UserError(
            "the probability flow needs a continuous schedule: a table with schedule.read log_snr"
        )
    spread = torch.special.ndtr(noise.like(x0)) - 0.5
    signs = noise.like(x0).sign()
    # y = x / alpha moves by eps as sigma / alpha grows, and log p(y) falls by the divergence of eps in y.
    y = x0 + spread / pixels.units.reshape(-1, 1, 1).to(x0)
    fallen = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)

    def slope(y: Tensor, k: int) -> tuple[Tensor, Tensor]:
        eps, divergence = _eps_and_divergence(denoise, y, times[k], signs, trace)
        bar = clock[k].exp().to(y)
        return bar * eps, bar * divergence

    h = (clock[2] - clock[0]).item()
    for k in range(0, 2 * steps, 2):
        a = slope(y, k)
        b = slope(y + h / 2 * a[0], k + 1)
        c = slope(y + h / 2 * b[0], k + 1)
        d = slope(y + h * c[0], k + 2)
        move, fall = ((p + 2 * q + 2 * r + s) * h / 6 for p, q, r, s in zip(a, b, c, d, strict=True))
        y, fallen = y + move, fallen + fall
    at = schedule(times[-1]).over(x0)
    last = log_density(at.alpha * y, at.alpha**2 + at.sigma**2) + at.alpha.log()
    units = pixels.units.log().reshape(-1, 1, 1).to(x0)
    return bits(units - last).double() - fallen / math.log(2) / x0[0].numel()


def _clean(schedule: Schedule, pixels: Pixels, noise: float, earliest: float) -> float:
    """The log-SNR of noise in 8-bit values, or that of the cleanest level from time `earliest` on.

    Where the units of channels differ, the values of the one in which they lie closest.
    """
    wanted = 2 * math.log(pixels.units.max().item() / noise)
    t = schedule.inverse(torch.tensor(wanted, dtype=torch.float64)).clamp(min=earliest)
    return schedule(t).log_snr.item()


def _eps_and_divergence(
    denoise: Denoiser, y: Tensor, t: Tensor, signs: Tensor, trace: Literal["estimated", "exact"]
) -> tuple[Tensor, Tensor]:
    """eps (B, C, H, W) at x = alpha * y, and its divergence (B,) in y."""
    alpha = denoise.schedule(t).over(y).alpha
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        eps = denoise(alpha * y, t).eps
        if trace == "estimated":
            (pulled,) = torch.autograd.grad(eps, y, signs)
            return eps.detach(), (pulled * signs).flatten(1).sum(1)
        divergence = torch.zeros_like(signs[:, 0, 0, 0])
        for i in range(y[0].numel()):
            one = torch.zeros_like(y).flatten(1)
            one[:, i] = 1
            (pulled,) = torch.autograd.grad(eps, y, one.reshape(y.shape), retain_graph=True)
            divergence += pulled.flatten(1)[:, i]
        return eps.detach(), divergence
