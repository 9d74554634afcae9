"""Filling in a part of an image: RePaint (Lugmayr et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import DDIM, State, last
from ddim.diffusion.schedules import Level
from ddim.errors import UserError


@dataclass(frozen=True)
class Inpaint:
    """A sampler that paints where `mask` is 1 and keeps `known` where it is 0.

    `known` (B or 1, C, H, W) in model units, `mask` (B or 1, 1, H, W). Algorithm 1 of the paper: each step is
    ancestral in the painted part and draws the known part from q(x_s | x0); done `resample` times, noised
    back in between, so that the two parts come to agree. N levels are resample (N - 1) evaluations; the
    picture, `pasted`, is one more.
    """

    known: Tensor
    mask: Tensor
    resample: int = 10

    def __post_init__(self) -> None:
        if self.resample < 1:
            raise UserError(f"resample must be at least 1, got {self.resample}")

    @torch.no_grad()
    def __call__(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Iterator[State]:
        """See `Sampler`."""
        if not len(times):
            return
        x = self._joined(x, denoise.schedule(times[0]), noise)
        yield State(x, times[0].item(), torch.zeros_like(x))
        ancestral, x0 = DDIM(1.0), torch.zeros_like(x)
        for t, s in pairwise(times):
            now, then = denoise.schedule(t), denoise.schedule(s)
            for again in range(self.resample):
                if again:
                    x = renoised(x, then, now, noise)
                step = last(ancestral(denoise, x, torch.stack([t, s]), noise))
                x, x0 = self._joined(step.x, then, noise), step.x0
            yield State(x, s.item(), self.pasted(x0))

    def pasted(self, x0: Tensor) -> Tensor:
        """Images (B, C, H, W) with the known part in its place."""
        mask = self.mask.to(x0)
        return mask * x0 + (1 - mask) * self.known.to(x0)

    def _joined(self, x: Tensor, at: Level, noise: Noise) -> Tensor:
        """The painted part of x, and the known part noised to the level ()."""
        mask = self.mask.to(x)
        known = at.noisy(self.known.to(x), noise.like(x))
        return mask * x + (1 - mask) * known


def renoised(x: Tensor, now: Level, then: Level, noise: Noise) -> Tensor:
    """x (B, C, H, W) brought to a noisier level () by fresh noise: a draw of q(x_t | x_s)."""
    scale = then.alpha / now.alpha
    fresh = (then.sigma**2 - (scale * now.sigma) ** 2).clamp(min=0).sqrt()
    return scale.to(x) * x + fresh.to(x) * noise.like(x)
