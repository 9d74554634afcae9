"""Denoising diffusion implicit models (Song, Meng & Ermon 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers.state import State
from ddim.errors import UserError


@dataclass(frozen=True)
class DDIM:
    """Song et al. 2021, eq. 12 and 16, at any (alpha, sigma): eta 0 is deterministic, eta 1 ancestral (DDPM).

    N levels are N - 1 steps, N - 1 evaluations; the picture is one more.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UserError(f"sampler.eta must lie in [0, 1], got {self.eta}")

    # The decorator, because a `with` round a yield would leave gradients off in the caller.
    @torch.no_grad()
    def __call__(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Iterator[State]:
        """See `Sampler`."""
        if not len(times):
            return
        yield State(x, times[0].item(), torch.zeros_like(x))
        for t, s in pairwise(times):
            # In float64: on a fine grid the rates at t and s are almost equal.
            now, then = denoise.schedule(t), denoise.schedule(s)
            ratio = (now.alpha * then.sigma) / (then.alpha * now.sigma)
            fresh = self.eta * then.sigma * (1 - ratio**2).clamp(min=0).sqrt()
            kept = (then.sigma**2 - fresh**2).clamp(min=0).sqrt()
            p = denoise(x, t)
            x = then.alpha.to(x) * p.x0 + kept.to(x) * p.eps
            if self.eta > 0:
                x = x + fresh.to(x) * noise.like(x)
            yield State(x, s.item(), p.x0)
