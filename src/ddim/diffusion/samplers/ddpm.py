"""Ancestral sampling of denoising diffusion probabilistic models (Ho et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.gaussian import step
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers.state import State
from ddim.errors import UserError


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
            q = step(denoise.schedule(t), denoise.schedule(s))
            p = denoise(x, t)
            if self.variance == "learned" and p.mix is None:
                raise UserError("sampler.variance is learned, but this network predicts no variance")
            mean = q.of_x.to(x) * x + q.of_x0.to(x) * p.x0
            if p.mix is not None and self.variance == "learned":
                spread = (q.log_variance(p.mix) / 2).exp()
            else:
                spread = (q.small if self.variance == "small" else q.large).sqrt().to(x)
            x = mean + spread * noise.like(x)
            yield State(x, s.item(), p.x0)
