"""Denoising diffusion implicit models (Song, Meng & Ermon 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers.state import Sampler, State
from ddim.errors import UserError, check_part_values


@dataclass(frozen=True)
class DDIM(Sampler):
    """DDIM (Song et al. 2021, eq. 12 and 16): eta 0 is deterministic, eta 1 is ancestral sampling (DDPM).

    It works for any schedule. A grid of N times takes N - 1 network evaluations; the final sample takes
    one more.

    Attributes:
        eta: amount of noise that each step adds: 0 is deterministic, 1 is DDPM.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        check_part_values("sampler", self)
        if not 0 <= self.eta <= 1:
            raise UserError(f"sampler.eta must lie in [0, 1], got {self.eta}")

    @property
    def stochastic(self) -> bool:
        """Whether sampling draws noise; see `Sampler`."""
        return self.eta > 0

    def walk(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Iterator[State]:
        """Yield the state after each step; see `Sampler`."""
        for t, s in pairwise(times):
            # The rates stay in float64, because on a fine grid the rates at t and s are almost equal.
            now, then = denoise.schedule(t), denoise.schedule(s)
            ratio = (now.alpha * then.sigma) / (then.alpha * now.sigma)
            fresh = self.eta * then.sigma * (1 - ratio**2).clamp(min=0).sqrt()
            kept = (then.sigma**2 - fresh**2).clamp(min=0).sqrt()
            p = denoise(x, t)
            x = then.alpha.to(x) * p.x0 + kept.to(x) * p.eps
            if self.eta > 0:
                x = x + fresh.to(x) * noise.like(x)
            yield State(x, s.item(), p.x0)
