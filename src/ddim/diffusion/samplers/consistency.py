"""Multistep sampling of consistency models (Song et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers.state import Sampler, State


@dataclass(frozen=True)
class Multistep(Sampler):
    """Multistep consistency sampling, for runs of `ddim distill` (Song et al. 2023, algorithm 1).

    The model predicts the image. The image then gets fresh noise of the next noise level, and so on. The
    first prediction is already a sample; each further step corrects it. With N times, sampling takes N
    network evaluations; the last of them gives the final sample.
    """

    stochastic = True

    def walk(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Iterator[State]:
        """Yield the state after each step; see `Sampler`."""
        for t, s in pairwise(times):
            x0 = denoise(x, t).x0
            x = denoise.schedule(s).noisy(x0, noise.like(x0))
            yield State(x, s.item(), x0)
