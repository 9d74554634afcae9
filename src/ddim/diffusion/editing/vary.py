"""Variations of an image: add noise up to an intermediate time, then denoise (SDEdit, Meng et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import Sampler, State, Times
from ddim.diffusion.schedules import as_double
from ddim.errors import UserError, describe_given


def vary(
    denoise: Denoiser, x0: Tensor, strength: float, times: Times, sampler: Sampler, noise: Noise
) -> Iterator[State]:
    """Run a sampler from images with noise added up to time `strength`.

    With a strength near 0 the sample is almost the image. With strength 1 it hardly depends on the image.

    Args:
        denoise: the model.
        x0: images (B, C, H, W) in model units.
        strength: the time at which sampling starts, in (0, 1].
        times: decreasing times (N,) of a full sampling run; only times below `strength` are used.
        sampler: the sampler.
        noise: the random streams, one for each image.

    Returns:
        The states of the run.

    Raises:
        UserError: if the strength does not lie in (0, 1].
    """
    check_strength(strength)
    first = torch.tensor([strength], dtype=torch.float64)
    times = as_double(times)
    levels = torch.cat([first, times[times < strength]])
    return sampler(denoise, denoise.schedule(first).noisy(x0, noise.like(x0)), levels, noise)


def check_strength(strength: float) -> None:
    """Check that the strength of a variation is a number in (0, 1].

    Raises:
        UserError: if it is not.
    """
    if not isinstance(strength, Real) or isinstance(strength, bool) or not 0 < float(strength) <= 1:
        raise UserError(f"strength must be a number in (0, 1], got {describe_given(strength)}")
