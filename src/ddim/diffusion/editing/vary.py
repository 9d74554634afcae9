"""Variations of an image: noised half-way and denoised again (SDEdit, Meng et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import Sampler, State
from ddim.errors import UserError


def vary(
    denoise: Denoiser, x0: Tensor, strength: float, times: Tensor, sampler: Sampler, noise: Noise
) -> Iterator[State]:
    """States of runs from images x0 (B, C, H, W), in model units, noised to time `strength`, in (0, 1].

    The levels are `strength` and those of `times` (N,) below it: a run of N steps takes its share of them.
    Near 0 the picture is the image, at 1 it is nearly independent of it.
    """
    if not 0 < strength <= 1:
        raise UserError(f"strength must lie in (0, 1], got {strength}")
    first = torch.tensor([strength], dtype=torch.float64)
    levels = torch.cat([first, times[times < strength]])
    return sampler(denoise, denoise.schedule(first).noisy(x0, noise.like(x0)), levels, noise)
