"""Ancestral sampling of denoising diffusion probabilistic models (Ho et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ddim.denoiser import Denoiser
from ddim.errors import UserError
from ddim.noise import Noise
from ddim.samplers.state import State


@dataclass(frozen=True)
class DDPM:
    """Ho et al. 2020, algorithm 2, between any two levels t > s of a schedule.

    The variance of a step: "small", that of q(x_s | x_t, x0), right for data that are one point; "large",
    beta, right for data of unit variance; "learned", the geometric mean of the two with the weight `mix` that
    the network predicts for each pixel (Nichol & Dhariwal 2021, eq. 15). N levels are N - 1 evaluations.
    """

    variance: Literal["small", "large", "learned"] = "small"

    @torch.no_grad()
    def __call__(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Iterator[State]:
        """See `Sampler`; UserError where a learned variance is asked of a network that predicts none."""
        if not len(times):
            return
        yield State(x, times[0].item(), torch.zeros_like(x))
        for t, s in pairwise(times):
            now, then = denoise.schedule(t), denoise.schedule(s)
            ratio = now.alpha / then.alpha
            beta = now.sigma**2 - ratio**2 * then.sigma**2  # of q(x_t | x_s)
            small = beta * then.sigma**2 / now.sigma**2
            p = denoise(x, t)
            mean = (ratio * then.sigma**2 / now.sigma**2).to(x) * x
            mean = mean + (then.alpha * beta / now.sigma**2).to(x) * p.x0
            if self.variance == "learned" and p.mix is None:
                raise UserError("sampler.variance is learned, but this network predicts no variance")
            if p.mix is not None and self.variance == "learned" and beta > 0:
                spread = (torch.lerp(small.log().to(x), beta.log().to(x), p.mix) / 2).exp()
            else:
                spread = (small if self.variance == "small" else beta).sqrt().to(x)
            x = mean + spread * noise.like(x)
            yield State(x, s.item(), p.x0)
