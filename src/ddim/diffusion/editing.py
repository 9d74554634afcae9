"""Editing of real images: inversion to latents, interpolation, inpainting, variations."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.sampler import Sampler, State, Steps, Times, move
from ddim.diffusion.samplers import DDIM
from ddim.diffusion.schedules import Level, as_double, spread_over
from ddim.errors import UserError

# Inversion


@torch.no_grad()
def find_latents(
    denoise: Denoiser,
    x0: Tensor,
    times: Times,
    *,
    exact: bool = False,
    tolerance: float = 1e-5,
    rounds: int = 200,
) -> tuple[Tensor, float]:
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
        The latents (B, C, H, W) and the residual of the exact steps: the largest change of a pixel in the
        last iteration of a step that did not converge, in model units; 0 if all steps converged.
    """
    schedule, times = denoise.schedule, as_double(times)
    x = schedule(times[-1]).over(x0).alpha * x0
    residual = 0.0
    slopes: deque[tuple[Tensor, Tensor]] = deque(maxlen=2)  # (log-SNR, slope)
    for s, t in pairwise(times.flip(0)):
        then, now = schedule(s), schedule(t)
        if then.log_snr == now.log_snr:  # two times with the same noise level of a table
            continue
        x_s = x
        slopes.append((then.log_snr, denoise(x_s, s).eps))
        x = move(x_s, _extrapolate(now.log_snr, slopes), then, now)
        change = 0.0
        for _ in range(rounds if exact else 0):
            better = move(x_s, denoise(x, t).eps, then, now)
            change = (better - x).abs().max().item()
            x = better
            if not change > tolerance:
                break
        # After an overflow of the latent the change is NaN; it counts as infinite, not as converged.
        residual = max(residual, change if math.isfinite(change) else math.inf)
    return x, residual if residual > tolerance else 0.0


def _extrapolate(log_snr: Tensor, slopes: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the slope at a scalar log-SNR, extrapolated from the last two slopes, or the only slope."""
    newest, slope = slopes[-1]
    before, earlier = slopes[0]
    if len(slopes) == 1:
        return slope
    part = (log_snr - newest) / (newest - before)
    return slope + spread_over(part, slope) * (slope - earlier)


@torch.no_grad()
def restore(denoise: Denoiser, latent: Tensor, times: Times) -> Tensor:
    """Restore images (B, C, H, W), in model units, from their latents by DDIM.

    The result is x / alpha at the last time, because `find_latents` starts there without noise.

    Args:
        denoise: the model.
        latent: the latents (B, C, H, W) at times[0].
        times: the decreasing times (N,) with which the latents were made.
    """
    schedule, times, x = denoise.schedule, as_double(times), latent
    ddim, none = DDIM(), Noise([])  # a deterministic step draws no noise
    for t, s in pairwise(times):
        x = ddim.step(x, denoise(x, t), schedule(t), schedule(s), none)
    return x / schedule(times[-1]).over(x).alpha


# Interpolation, along the sphere near which normal noise lies


def slerp(a: Tensor, b: Tensor, u: float) -> Tensor:
    """Interpolate spherically from a (u = 0) to b (u = 1), both (B, C, H, W), each image separately.

    The direction follows the great circle (Shoemake 1985), and the norm changes linearly. Linear
    interpolation would give latents whose norm is too small, by a factor sqrt(1/2) in the middle. Their
    samples have little detail (Song et al. 2021, appendix D.5).
    Between opposite latents, the great circle is not unique.
    """
    # The CPU is used, because not every device has float64.
    flat_a, flat_b = (latent.cpu().double().flatten(1) for latent in (a, b))
    norm_a, norm_b = _norm(flat_a), _norm(flat_b)
    p = flat_a / norm_a.clamp(min=1e-300)
    q = flat_b / norm_b.clamp(min=1e-300)
    # The angle is computed from chords, because the arc cosine loses half the digits for close latents.
    angle = 2 * torch.atan2(_norm(p - q), _norm(p + q))
    # Between equal latents the weights are 1 - u and u; the clamp avoids a division by 0.
    angle = angle.clamp(min=1e-6)
    near, far = ((part * angle).sin() / angle.sin() for part in (1 - u, u))
    direction = near * p + far * q
    length = (1 - u) * norm_a + u * norm_b
    return (direction * length).reshape(a.shape).to(a)


def _norm(flat: Tensor) -> Tensor:
    """Return the norm (B, 1) of each row."""
    return flat.norm(dim=1, keepdim=True)


def interpolate_latents(a: Tensor, b: Tensor, shares: Sequence[float]) -> Tensor:
    """Return latents (N, C, H, W) between a and b, both (C, H, W); latent k has the share shares[k] of b."""
    return torch.cat([slerp(a[None], b[None], share) for share in shares])


class BlendedNoise(Noise):
    """Noise between that of two seeds, on the sphere; image k has the share `shares[k]` of the second seed.

    A sampler that adds noise thus interpolates between the samples of the two seeds.
    """

    def __init__(self, seeds: Sequence[int], shares: Sequence[float]) -> None:
        super().__init__(seeds)
        self.shares = shares

    def like(self, x: Tensor) -> Tensor:
        """Draw noise with the shape, dtype and device of x (B, ...), for B shares."""
        a, b = super().like(x[:1].expand(2, *x.shape[1:]))
        return interpolate_latents(a, b, self.shares)


# Inpainting


@dataclass(frozen=True)
class Inpaint(Sampler):
    """A sampler that generates the image where `mask` is 1, and keeps the image `known` where `mask` is 0.

    This sampler is algorithm 1 of RePaint (Lugmayr et al. 2022). Each step is an ancestral step in the masked
    part, and draws the known part from q(x_s | x0). The step is done `resample` times, with noise added back
    in between, so that the two parts fit together. In the x0 of each state, the part outside the mask is
    `known`. A grid of N times takes resample * (N - 1) + 1 network evaluations.

    Attributes:
        known: images (B or 1, C, H, W) in model units.
        mask: (B or 1, 1, H, W), 1 where new content is generated.
        resample: how often each step is done.
    """

    known: Tensor = field(repr=False)
    mask: Tensor = field(repr=False)
    resample: int = 10

    stochastic = True

    def evaluations(self, levels: int) -> int:
        return self.resample * (levels - 1) + 1

    @torch.no_grad()
    def __call__(self, denoise: Denoiser, x: Tensor, times: Times, noise: Noise) -> Iterator[State]:
        for state in super().__call__(denoise, x, times, noise):
            yield replace(state, x0=self._paste(state.x0, self.known.to(x)))

    def walk(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Steps:
        ancestral = DDIM(1.0)
        x = self._join(x, denoise.schedule(times[0]), noise)
        for t, s in pairwise(times):
            now, then = denoise.schedule(t), denoise.schedule(s)
            for again in range(self.resample):
                if again:
                    x = renoise(x, then, now, noise)
                p = denoise(x, t)
                if not again:
                    yield State(x, t.item(), p.x0)
                x = self._join(ancestral.step(x, p, now, then, noise), then, noise)
        return x

    def _join(self, x: Tensor, at: Level, noise: Noise) -> Tensor:
        """Combine the masked part of x with the known part, to which noise is added up to level `at`."""
        return self._paste(x, at.noisy(self.known.to(x), noise.like(x)))

    def _paste(self, new: Tensor, known: Tensor) -> Tensor:
        """Return `new` where the mask is 1, and `known` where it is 0."""
        mask = self.mask.to(new)
        return mask * new + (1 - mask) * known


def renoise(x: Tensor, now: Level, then: Level, noise: Noise) -> Tensor:
    """Return x (B, C, H, W) with noise added from level `now` up to `then`: a draw from q(x_t | x_s)."""
    scale = then.alpha / now.alpha
    fresh = (then.sigma**2 - (scale * now.sigma) ** 2).clamp(min=0).sqrt()
    return spread_over(scale, x) * x + spread_over(fresh, x) * noise.like(x)


# Variations


def sample_from_image(
    denoise: Denoiser, x0: Tensor, strength: float, times: Times, sampler: Sampler, noise: Noise
) -> Iterator[State]:
    """Run a sampler from images with noise added up to time `strength` (SDEdit, Meng et al. 2022).

    With a strength near 0 the sample is almost the image. With strength 1 it hardly depends on the image.

    Args:
        denoise: the model.
        x0: images (B, C, H, W) in model units.
        strength: the time at which sampling starts, in (0, 1].
        times: decreasing times (N,) of a full sampling run; only times below `strength` are used.
        sampler: the sampler.
        noise: the random streams, one for each image.

    Returns:
        The states of the run.

    Raises:
        UserError: if the strength does not lie in (0, 1].
    """
    if not 0 < strength <= 1:
        raise UserError(f"strength must lie in (0, 1], got {strength}")
    first, times = as_double([strength]), as_double(times)
    x = denoise.schedule(first[0]).noisy(x0, noise.like(x0))
    return sampler(denoise, x, torch.cat([first, times[times < strength]]), noise)
