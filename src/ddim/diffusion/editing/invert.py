"""Image to latent and back, by DDIM run backwards (Song et al. 2021, section 5.4)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import DDIM, last
from ddim.diffusion.samplers.line import moved
from ddim.errors import UserError


@dataclass(frozen=True)
class Inverted:
    """Latents (B, C, H, W) at the first time of the grid, and how well each step of an exact run was solved.

    `residual` is the largest change of any pixel in the last round of any step, in model units: 0 where steps
    were not iterated. `converged` says whether it fell below the tolerance at every step.
    """

    latent: Tensor
    residual: float
    converged: bool


@torch.no_grad()
def invert(
    denoise: Denoiser,
    x0: Tensor,
    times: Tensor,
    *,
    exact: bool = False,
    tolerance: float = 1e-5,
    rounds: int = 200,
) -> Inverted:
    """Images x0 (B, C, H, W) in model units -> their latents at times[0], up the decreasing times (N,).

    An image enters as alpha x0 at the last level, without the noise of that level: nothing is drawn. DDIM
    leads from x_t back to x_s with the slope eps(x_t) (Song et al. 2021, eq. 13), which is not known at x_s.
    Plain, it is the line in log-SNR through the last two slopes, read at t: N - 1 evaluations, and a round
    trip of order 2; the slope at x_s, which others take, makes it 1. `exact` looks for the x_t with
    x_t = moved(x_s, eps(x_t)), and iterates until no pixel changes by more than `tolerance`, or `rounds`
    times: steps that are too long for their network do not converge, which the answer says. UserError for an
    empty grid.
    """
    if not len(times) or rounds < 1:
        raise UserError(f"an inversion needs a level in its grid and a round, got {len(times)} and {rounds}")
    schedule = denoise.schedule
    x = schedule(times[-1]).over(x0).alpha * x0
    residual = 0.0
    past: deque[tuple[Tensor, Tensor]] = deque(maxlen=2)  # (log-SNR, slope)
    for s, t in pairwise(times.flip(0)):
        then, now = schedule(s), schedule(t)
        if then.log_snr == now.log_snr:  # two times of one level of a table
            continue
        begun = x
        past.append((then.log_snr, denoise(begun, s).eps))
        x = moved(begun, _at(now.log_snr, past), then, now)
        if exact:
            for _ in range(rounds):
                better = moved(begun, denoise(x, t).eps, then, now)
                change = (better - x).abs().max().item()
                x = better
                if not change > tolerance:
                    break
            # Of a latent that has overflowed the change is no number.
            residual = max(residual, change if math.isfinite(change) else math.inf)
    return Inverted(x, residual, residual <= tolerance)


def _at(log_snr: Tensor, past: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The slope at a log-SNR (), on the line through two, or that of one."""
    (newest, slope), (before, earlier) = past[-1], past[0]
    if len(past) == 1:
        return slope
    part = (log_snr - newest) / (newest - before)
    return slope + part.to(slope) * (slope - earlier)


@torch.no_grad()
def restore(denoise: Denoiser, latent: Tensor, times: Tensor) -> Tensor:
    """Latents (B, C, H, W) at times[0] -> images in model units, out as they came in: x / alpha at last."""
    end = last(DDIM()(denoise, latent, times, Noise(range(len(latent)))))
    return end.x / denoise.schedule(times[-1]).over(latent).alpha
