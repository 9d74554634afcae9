"""The denoising error: how far predicted noise and clean images are from the true ones, image by image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser


@dataclass(frozen=True)
class DenoisingError:
    """Means over the numbers of each image (B,), in model units, float64 on the CPU.

    `power` is the mean of eps_hat^2 and `inner` that of eps_hat * (eps - eps_hat), for the predicted noise
    eps_hat.
    """

    noise_mse: Tensor
    noise_mae: Tensor
    image_mse: Tensor
    image_mae: Tensor
    power: Tensor
    inner: Tensor


@torch.no_grad()
def denoising_error(denoise: Denoiser, x0: Tensor, t: Tensor, eps: Tensor) -> DenoisingError:
    """The errors on images x0 (B, C, H, W) in model units, noised with eps to times t, () or (B,)."""
    p = denoise(denoise.schedule(t).noisy(x0, eps), t)
    found, noise, image = (value.cpu().double() for value in (p.eps, eps, x0))
    wrong, away = found - noise, p.x0.cpu().double() - image
    means = (wrong.square(), wrong.abs(), away.square(), away.abs(), found.square(), -found * wrong)
    return DenoisingError(*(numbers.flatten(1).mean(1) for numbers in means))
