"""The denoising error: the error of the predicted noise and of the predicted clean image, for each image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser


@dataclass(frozen=True)
class DenoisingError:
    """Errors of B predictions, each (B,): means over pixels and channels in model units, float64 on the CPU.

    Below, eps is the true noise and eps_hat the predicted noise.

    Attributes:
        noise_mse: squared error of the predicted noise.
        noise_mae: absolute error of the predicted noise.
        image_mse: squared error of the predicted clean image.
        image_mae: absolute error of the predicted clean image.
        power: mean of eps_hat^2.
        inner: mean of eps_hat * (eps - eps_hat).
    """

    noise_mse: Tensor
    noise_mae: Tensor
    image_mse: Tensor
    image_mae: Tensor
    power: Tensor
    inner: Tensor


@torch.no_grad()
def denoising_error(denoise: Denoiser, x0: Tensor, t: Tensor, eps: Tensor) -> DenoisingError:
    """Return the denoising errors of a model on clean images.

    Args:
        denoise: the model.
        x0: clean images (B, C, H, W) in model units.
        t: times, a scalar or (B,); noise is added to x0 up to the noise level of these times.
        eps: standard normal noise with the shape of x0.
    """
    p = denoise(denoise.schedule(t).noisy(x0, eps), t)
    found, noise, image = (value.cpu().double() for value in (p.eps, eps, x0))
    wrong, away = found - noise, p.x0.cpu().double() - image
    means = (wrong.square(), wrong.abs(), away.square(), away.abs(), found.square(), -found * wrong)
    return DenoisingError(*(numbers.flatten(1).mean(1) for numbers in means))
