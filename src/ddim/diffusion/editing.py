"""Editing of real images: inversion to latents, interpolation, inpainting, variations."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.parameterisation import ShortRepr
from ddim.diffusion.sampler import Sampler, State, Times, last_state, move
from ddim.diffusion.samplers import DDIM
from ddim.diffusion.schedules import Level, as_double
from ddim.errors import UserError, check_count, describe_given


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


def slerp(a: Tensor, b: Tensor, u: float) -> Tensor:
    """Interpolate spherically from a (u = 0) to b (u = 1), both (B, C, H, W), each image separately.

    The direction follows the great circle (Shoemake 1985), and the norm changes linearly. Linear
    interpolation would give latents whose norm is too small, by a factor sqrt(1/2) in the middle. Their
    samples have little detail (Song et al. 2021, appendix D.5).

    Raises:
        UserError: if two latents are opposite: the great circle between them is then not unique.
    """
    # The CPU is used, because not every device has float64.
    flat = [v.cpu().double().flatten(1) for v in (a, b)]
    norms = [v.norm(dim=1, keepdim=True) for v in flat]
    p, q = (v / n.clamp(min=1e-300) for v, n in zip(flat, norms, strict=True))
    # The angle is computed from chords, because the arc cosine loses half the digits for close latents.
    angle = 2 * torch.atan2((p - q).norm(dim=1, keepdim=True), (p + q).norm(dim=1, keepdim=True))
    if (torch.pi - angle < 1e-6).any():
        raise UserError("slerp needs two latents that are not opposite, got b = -a: choose another latent")
    small = angle < 1e-6
    safe = torch.where(small, 1.0, angle)
    weights = [torch.where(small, part, (part * safe).sin() / safe.sin()) for part in (1 - u, u)]
    mixed = weights[0] * p + weights[1] * q
    return (mixed * ((1 - u) * norms[0] + u * norms[1])).reshape(a.shape).to(a)


def interpolate_latents(a: Tensor, b: Tensor, frames: int) -> Tensor:
    """Return interpolated latents (frames, C, H, W) from a to b, both (C, H, W); both ends are included.

    Raises:
        UserError: if frames < 2, or the latents are opposite.
    """
    check_count("frames", frames, 0)
    if frames < 2:
        raise UserError(f"an interpolation needs at least 2 frames, got {frames}")
    return torch.cat([slerp(a[None], b[None], k / (frames - 1)) for k in range(frames)])


def attribute_direction(having: Tensor, lacking: Tensor) -> Tensor:
    """Return the direction (1, C, H, W) of an attribute in latent space, for `move_along`.

    It is the mean of the latents `having` the attribute minus the mean of the latents `lacking` it.

    Raises:
        UserError: if either set is empty.
    """
    if not len(having) or not len(lacking):
        raise UserError(
            "an attribute needs latents of images with it and without it, "
            f"got {len(having)} with and {len(lacking)} without"
        )
    return having.mean(0, keepdim=True) - lacking.mean(0, keepdim=True)


def move_along(latent: Tensor, direction: Tensor, amount: float) -> Tensor:
    """Return latents (B, C, H, W) plus `amount` times a direction (1, C, H, W), with unchanged norms."""
    changed = latent + amount * direction
    norm = [v.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) for v in (latent, changed)]
    return changed * (norm[0] / norm[1])


@dataclass(frozen=True, repr=False)
class Inpaint(ShortRepr, Sampler):
    """A sampler that generates the image where `mask` is 1, and keeps the image `known` where `mask` is 0.

    This sampler is algorithm 1 of RePaint. Each step is an ancestral step in the masked part, and draws the
    known part from q(x_s | x0). The step is done `resample` times, with noise added back in between, so that
    the two parts fit together. A grid of N times takes resample * (N - 1) network evaluations; the final
    sample takes one more. Apply `paste` to the final sample.

    Attributes:
        known: images (B or 1, C, H, W) in model units.
        mask: (B or 1, 1, H, W), 1 where new content is generated.
        resample: how often each step is done.
    """

    known: Tensor
    mask: Tensor
    resample: int = 10

    stochastic = True

    def __post_init__(self) -> None:
        if self.resample < 1:
            raise UserError(f"resample must be at least 1, got {self.resample}")

    def evaluations(self, levels: int) -> int:
        """Return the number of network evaluations of a sampling run; see `Sampler`."""
        return self.resample * (levels - 1) + 1

    @torch.no_grad()
    def __call__(self, denoise: Denoiser, x: Tensor, times: Times, noise: Noise) -> Iterator[State]:
        """Yield one state for each time; see `Sampler`.

        In each state, the part outside the mask is `known`, with noise of the level of this state.
        """
        if len(times):
            x = self._join(x, denoise.schedule(as_double(times)[0]), noise)
        yield from super().__call__(denoise, x, times, noise)

    def walk(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Iterator[State]:
        """Yield the state after each step; see `Sampler`."""
        ancestral, x0 = DDIM(1.0), torch.zeros_like(x)
        for t, s in pairwise(times):
            now, then = denoise.schedule(t), denoise.schedule(s)
            for again in range(self.resample):
                if again:
                    x = renoise(x, then, now, noise)
                step = last_state(ancestral(denoise, x, torch.stack([t, s]), noise))
                x, x0 = self._join(step.x, then, noise), step.x0
            yield State(x, s.item(), self.paste(x0))

    def paste(self, x0: Tensor) -> Tensor:
        """Return images (B, C, H, W) whose known part is replaced by the exact known image."""
        mask = self.mask.to(x0)
        return mask * x0 + (1 - mask) * self.known.to(x0)

    def _join(self, x: Tensor, at: Level, noise: Noise) -> Tensor:
        """Combine the masked part of x with the known part, to which noise is added up to level `at`."""
        mask = self.mask.to(x)
        known = at.noisy(self.known.to(x), noise.like(x))
        return mask * x + (1 - mask) * known


def renoise(x: Tensor, now: Level, then: Level, noise: Noise) -> Tensor:
    """Return x (B, C, H, W) with noise added from level `now` up to `then`: a draw from q(x_t | x_s)."""
    scale = then.alpha / now.alpha
    fresh = (then.sigma**2 - (scale * now.sigma) ** 2).clamp(min=0).sqrt()
    return scale.to(x) * x + fresh.to(x) * noise.like(x)


def vary(
    denoise: Denoiser, x0: Tensor, strength: float, times: Times, sampler: Sampler, noise: Noise
) -> Iterator[State]:
    """Run a sampler from images with noise added up to time `strength`.

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
    check_strength(strength)
    first = torch.tensor([strength], dtype=torch.float64)
    times = as_double(times)
    levels = torch.cat([first, times[times < strength]])
    return sampler(denoise, denoise.schedule(first).noisy(x0, noise.like(x0)), levels, noise)


def check_strength(strength: float) -> None:
    """Check that the strength of a variation is a number in (0, 1].

    Raises:
        UserError: if it is not.
    """
    if not isinstance(strength, Real) or isinstance(strength, bool) or not 0 < float(strength) <= 1:
        raise UserError(f"strength must be a number in (0, 1], got {describe_given(strength)}")
