"""Pixels: the map between images in [0, 1] and model units, fixed before training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.errors import UserError


@dataclass(frozen=True)
class Pixels:
    """Mean and standard deviation per channel of images in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean or not min(self.std) > 0:
            raise UserError(f"Pixels needs as many std as mean, all above 0, got {self.mean} and {self.std}")

    @classmethod
    def fixed(cls, mean: float, std: float, channels: int = 3) -> Pixels:
        """The same affine map for every channel; (0.5, 0.5) is the usual [-1, 1]."""
        return cls((mean,) * channels, (std,) * channels)

    @classmethod
    def measured(cls, batches: Iterable[Tensor], deviation: float = 1.0) -> Pixels:
        """The pixels under which each channel of the training set has mean 0 and this standard deviation.

        Args:
            batches: images (B, C, H, W) in [0, 1], together the training set; sums are in float64.
            deviation: the standard deviation in model units.

        Raises:
            UserError: if there is no image.
        """
        count, total, square = 0, torch.zeros(()), torch.zeros(())
        for batch in batches:
            values = batch.double()
            count += values.numel() // values.shape[1]
            total = total + values.sum((0, 2, 3))
            square = square + values.square().sum((0, 2, 3))
        if not count:
            raise UserError("pixels cannot be measured on an empty set of images")
        mean = total / count
        # A constant channel, such as an opaque alpha, has no spread to divide by.
        std = (square / count - mean**2).clamp(min=1e-6).sqrt() / deviation
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    def enter(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in model units, from images in [0, 1]."""
        mean, std = self._over(images)
        return (images - mean) / std

    def leave(self, x0: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1], clamped, from model units."""
        mean, std = self._over(x0)
        return (x0 * std + mean).clamp(0, 1)

    def values(self, x0: Tensor) -> Tensor:
        """8-bit values (B, C, H, W), 0 to 255, neither rounded nor clamped, from model units."""
        mean, std = self._over(x0)
        return 255 * (x0 * std + mean)

    @property
    def dequantised(self) -> Pixels:
        """These pixels for dequantised images: an 8-bit value v enters as (v + g) / 256, with g in [0, 1).

        The image v / 255 lies in the middle of that range. `values` are v + g - 1/2, and `units` count bins
        of one 256th.
        """
        mean = tuple(256 / 255 * (value - 1 / 512) for value in self.mean)
        return Pixels(mean, tuple(256 / 255 * value for value in self.std))

    @property
    def units(self) -> Tensor:
        """(C,) the number of 8-bit values in one model unit of each channel, float64."""
        return 255 * torch.tensor(self.std).double()

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """(C,), (C,) the model units of black and of white in each channel, float64."""
        mean, std = torch.tensor(self.mean).double(), torch.tensor(self.std).double()
        return -mean / std, (1 - mean) / std

    def _over(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[1] != len(self.mean):
            raise UserError(
                f"images must have {len(self.mean)} channels, as the training set, got {x.shape[1]}"
            )
        mean, std = x.new_tensor(self.mean), x.new_tensor(self.std)
        return mean.reshape(1, -1, 1, 1), std.reshape(1, -1, 1, 1)
