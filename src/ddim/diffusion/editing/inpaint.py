"""Inpainting: new content for a part of an image, by RePaint (Lugmayr et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import DDIM, Sampler, State, Times, last_state
from ddim.diffusion.schedules import Level, as_double
from ddim.diffusion.short_repr import ShortRepr
from ddim.errors import UserError


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
