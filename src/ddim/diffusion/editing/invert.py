"""DDIM inversion: from an image to its latent and back (Song et al. 2021, section 5.4)."""

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
from ddim.diffusion.samplers import DDIM, Times, last_state
from ddim.diffusion.samplers.flow import move
from ddim.diffusion.schedules import as_double
from ddim.diffusion.short_repr import ShortRepr
from ddim.errors import UserError


@dataclass(frozen=True, repr=False)
class Inverted(ShortRepr):
    """Latents (B, C, H, W) at the first time of the grid, and the accuracy of an exact inversion.

    `residual` is the largest change of any pixel in the last iteration of any step, in model units.
    `converged` says whether every step reached the tolerance. If `exact` was off, `residual` is 0 and
    `converged` is True.
    """

    latent: Tensor
    residual: float
    converged: bool


@torch.no_grad()
def invert(
    denoise: Denoiser,
    x0: Tensor,
    times: Times,
    *,
    exact: bool = False,
    tolerance: float = 1e-5,
    rounds: int = 200,
) -> Inverted:
    """Find the latents of images: run DDIM backwards through the times, from the image to noise.

    The start is alpha * x0 at the last time, without noise; this makes the result deterministic. A DDIM step
    from x_t to x_s uses the slope eps(x_t) (Song et al. 2021, eq. 13); the backward step knows only x_s.
    Without `exact`, eps(x_t) is extrapolated linearly in log-SNR from the last two slopes. This takes N - 1
    network evaluations, and the error of inversion and restoration is of order 2. The common choice, the
    slope eps(x_s), has order 1.

    Args:
        denoise: the model.
        x0: images (B, C, H, W) in model units.
        times: the decreasing times (N,) of a sampling run; the latents belong to times[0].
        exact: whether to solve x_t = move(x_s, eps(x_t)) at each step by iteration.
        tolerance: an exact step has converged if no pixel changes by more than this, in model units.
        rounds: the largest number of iterations of an exact step. Steps that are too long do not converge.

    Returns:
        The latents, and whether the exact steps converged.

    Raises:
        UserError: if the grid is empty or `rounds` < 1.
    """
    if not len(times) or rounds < 1:
        raise UserError(f"an inversion needs at least 1 time and 1 round, got {len(times)} and {rounds}")
    schedule = denoise.schedule
    times = as_double(times)
    x = schedule(times[-1]).over(x0).alpha * x0
    residual = 0.0
    past: deque[tuple[Tensor, Tensor]] = deque(maxlen=2)  # (log-SNR, slope)
    for s, t in pairwise(times.flip(0)):
        then, now = schedule(s), schedule(t)
        if then.log_snr == now.log_snr:  # two times with the same noise level of a table
            continue
        x_s = x
        past.append((then.log_snr, denoise(x_s, s).eps))
        x = move(x_s, _extrapolate(now.log_snr, past), then, now)
        if exact:
            change = math.inf
            for _ in range(rounds):
                better = move(x_s, denoise(x, t).eps, then, now)
                change = (better - x).abs().max().item()
                x = better
                if not change > tolerance:
                    break
            # After an overflow of the latent the change is NaN; it counts as infinite, not as converged.
            residual = max(residual, change if math.isfinite(change) else math.inf)
    return Inverted(x, residual, residual <= tolerance)


def _extrapolate(log_snr: Tensor, past: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the slope at a scalar log-SNR, extrapolated from the last two slopes.

    If there is only one slope, it is returned.
    """
    (newest, slope), (before, earlier) = past[-1], past[0]
    if len(past) == 1:
        return slope
    part = (log_snr - newest) / (newest - before)
    return slope + part.to(slope) * (slope - earlier)


@torch.no_grad()
def restore(denoise: Denoiser, latent: Tensor, times: Times) -> Tensor:
    """Restore images (B, C, H, W), in model units, from their latents by DDIM.

    The result is x / alpha at the last time, because `invert` starts there without noise.

    Args:
        denoise: the model.
        latent: the latents (B, C, H, W) at times[0].
        times: the decreasing times (N,) with which the latents were found.

    Raises:
        UserError: if the grid is empty.
    """
    times = as_double(times)
    end = last_state(DDIM()(denoise, latent, times, Noise(range(len(latent)))))
    return end.x / denoise.schedule(times[-1]).over(latent).alpha
