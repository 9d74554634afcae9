"""Pixels: the affine map between images in [0, 1] and model units, fixed before training."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.diffusion.schedules import copy_to_device


@dataclass(frozen=True)
class Pixels:
    """The map between images in [0, 1] and model units: x0 = (image - mean) / std, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fixed(cls, mean: float, std: float, channels: int = 3) -> "Pixels":
        """Return the same map for every channel; mean 0.5 and std 0.5 give the usual range [-1, 1]."""
        return cls((mean,) * channels, (std,) * channels)

    @classmethod
    def measured(cls, batches: Iterable[Tensor], deviation: float = 1.0) -> "Pixels":
        """Return the map under which each channel of the training set has mean 0 and the given deviation.

        Args:
            batches: batches (B, C, H, W) in [0, 1] of the whole training set; sums are computed in float64.
            deviation: the standard deviation in model units.
        """
        count, total, square = 0, torch.zeros((), device="cpu"), torch.zeros((), device="cpu")
        for batch in batches:
            values = batch.double()
            count += values.numel() // values.shape[1]
            total = total + values.sum((0, 2, 3))
            square = square + values.square().sum((0, 2, 3))
        mean = total / count
        # A constant channel, such as an opaque alpha channel, has variance 0: avoid the division by 0.
        std = (square / count - mean**2).clamp(min=1e-6).sqrt() / deviation
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    def enter(self, images: Tensor) -> Tensor:
        """Convert images (B, C, H, W) in [0, 1] to model units."""
        mean, std = self._over(images)
        return (images - mean) / std

    def leave(self, x0: Tensor) -> Tensor:
        """Convert images (B, C, H, W) in model units to [0, 1]; values outside this range are clamped."""
        mean, std = self._over(x0)
        return (x0 * std + mean).clamp(0, 1)

    def values(self, x0: Tensor) -> Tensor:
        """Convert images (B, C, H, W) in model units to the scale 0 to 255, without rounding or clamping."""
        mean, std = self._over(x0)
        return 255 * (x0 * std + mean)

    @property
    def dequantised(self) -> "Pixels":
        """The map for dequantised images: an 8-bit value v becomes (v + g) / 256, with noise g in [0, 1).

        Under this map, the image v / 255 has the same model units as the dequantised value with g = 1/2.
        `values` of this map returns v + g - 1/2, and its `units` counts bins of width 1/256.
        """
        mean = tuple(256 / 255 * (value - 1 / 512) for value in self.mean)
        return Pixels(mean, tuple(256 / 255 * value for value in self.std))

    def units(self, x: Tensor) -> Tensor:
        """Return the number of 8-bit values in one model unit, (C, 1, 1), for images x (B, C, H, W)."""
        return 255 * self._over(x)[1]

    @property
    def bounds(self) -> Tensor:
        """Black and white in model units, for each channel: (2, C), float64."""
        mean, std = torch.tensor([self.mean, self.std], device="cpu").double()
        return torch.stack([-mean / std, (1 - mean) / std])

    def _over(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation in a shape that fits images x (B, C, H, W)."""
        mean = copy_to_device(self, "mean", x.device, x.dtype)
        std = copy_to_device(self, "std", x.device, x.dtype)
        return mean.reshape(-1, 1, 1), std.reshape(-1, 1, 1)
