"""Variations of an image: noise it half-way and denoise it again (SDEdit, Meng et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import Sampler, State, Times
from ddim.diffusion.schedules import as_double
from ddim.errors import UserError


def vary(
    denoise: Denoiser, x0: Tensor, strength: float, times: Times, sampler: Sampler, noise: Noise
) -> Iterator[State]:
    """Run a sampler from images x0 (B, C, H, W), in model units, noised to time `strength`.

    Near strength 0 the sample is the image; at 1 it is nearly independent of it.

    Args:
        denoise: the model.
        x0: the images.
        strength: the time at which the run starts, in (0, 1].
        times: decreasing times (N,) of a whole run; those below `strength` follow it.
        sampler: the sampler.
        noise: the random streams, one for each image.

    Returns:
        The states of the run.

    Raises:
        UserError: if the strength does not lie in (0, 1].
    """
    if not 0 < strength <= 1:
        raise UserError(f"strength must lie in (0, 1], got {strength}")
    first = torch.tensor([strength], dtype=torch.float64)
    times = as_double(times)
    levels = torch.cat([first, times[times < strength]])
    return sampler(denoise, denoise.schedule(first).noisy(x0, noise.like(x0)), levels, noise)
