"""The stochastic sampler of "Elucidating the design space" (Karras et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers.line import bar, moved, time_of
from ddim.diffusion.samplers.state import State
from ddim.errors import UserError


@dataclass(frozen=True)
class EDM:
    """Karras et al. 2022, algorithms 2 and 3, in sigma / alpha, and so for any schedule.

    Of order 2 a step asks twice: at its start and at the fraction `alpha` of it (1 Heun, 1/2 midpoint, 2/3
    Ralston); of order 1 it is Euler's. `s_churn`, `s_min`, `s_max` and `s_noise` are the paper's: how much
    noise is renewed in a run, at which sigma / alpha (`s_max` None: at all above `s_min`), and how it is
    inflated. No churn leads past t = 1; on a table that is read by floor it is rounded up to an entry.
    The last level is left to the final picture without churn, where algorithm 2 churns at i = N - 1 too if
    `s_min` lets it.
    N levels are 2 (N - 1) evaluations, N - 1 of order 1; the picture is one more.
    """

    order: int = 2
    alpha: float = 1.0
    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float | None = None
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise UserError(f"sampler.order must be 1 or 2, got {self.order}")
        if not 0 < self.alpha <= 1:
            raise UserError(f"sampler.alpha must lie in (0, 1], got {self.alpha}")
        if min(self.s_churn, self.s_noise) < 0 or not 0 <= self.s_min <= self._most:
            raise UserError(
                "sampler.s_churn and s_noise must be at least 0 and s_min at most s_max, got "
                f"{self.s_churn}, {self.s_noise}, {self.s_min} and {self.s_max}"
            )

    @property
    def _most(self) -> float:
        return math.inf if self.s_max is None else self.s_max

    @torch.no_grad()
    def __call__(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Iterator[State]:
        """See `Sampler`."""
        if not len(times):
            return
        schedule = denoise.schedule
        yield State(x, times[0].item(), torch.zeros_like(x))
        for t, s in pairwise(times):
            x, t = self._churned(denoise, x, t, len(times), noise)  # noqa: PLW2901  (the paper's t-hat)
            now, then = schedule(t), schedule(s)
            p = denoise(x, t)
            slope = p.eps
            if self.order == 2:
                where = (
                    s if self.alpha == 1 else time_of(schedule, torch.lerp(bar(now), bar(then), self.alpha))
                )
                at = schedule(where)
                q = denoise(moved(x, p.eps, now, at), where)
                # The fraction that it is, not the one asked for: a table has no level between its entries.
                part = (bar(at) - bar(now)) / (bar(then) - bar(now))
                if part > 0:
                    slope = p.eps + (q.eps - p.eps) / (2 * part).to(x)
            x = moved(x, slope, now, then)
            yield State(x, s.item(), p.x0)

    def _churned(
        self, denoise: Denoiser, x: Tensor, t: Tensor, levels: int, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Algorithm 2, lines 4 to 6: x raised to a noisier time, and that time."""
        schedule = denoise.schedule
        now = schedule(t)
        if self.s_churn == 0 or not self.s_min <= bar(now) <= self._most:
            return x, t
        gamma = min(self.s_churn / levels, math.sqrt(2) - 1)
        raised = time_of(schedule, bar(now) * (1 + gamma))
        then = schedule(raised)
        fresh = (bar(then) ** 2 - bar(now) ** 2).clamp(min=0).sqrt() * self.s_noise
        return (then.alpha / now.alpha).to(x) * x + (then.alpha * fresh).to(x) * noise.like(x), raised
