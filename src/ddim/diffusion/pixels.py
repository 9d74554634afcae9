"""The border between images in [0, 1] and model units: measured before training, then frozen."""

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
        """Over batches (B, C, H, W) of images in [0, 1] that together are the training set, in float64.

        In model units each channel then has mean 0 and this standard deviation.
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
        # A constant channel (an opaque alpha, say) has no spread to divide by.
        std = (square / count - mean**2).clamp(min=1e-6).sqrt() / deviation
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    def enter(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> model units."""
        mean, std = self._over(images)
        return (images - mean) / std

    def leave(self, x0: Tensor) -> Tensor:
        """(B, C, H, W) in model units -> [0, 1], clamped."""
        mean, std = self._over(x0)
        return (x0 * std + mean).clamp(0, 1)

    def values(self, x0: Tensor) -> Tensor:
        """(B, C, H, W) in model units -> 8-bit values, 0 to 255, neither rounded nor clamped."""
        mean, std = self._over(x0)
        return 255 * (x0 * std + mean)

    @property
    def dequantised(self) -> Pixels:
        """These pixels for 8-bit values v that enter as (v + g) / 256 with g in [0, 1), and not as v / 255.

        v / 255 enters in the middle of them; `values` are v + g - 1/2, and `units` are in bins of a 256th.
        """
        mean = tuple(256 / 255 * (value - 1 / 512) for value in self.mean)
        return Pixels(mean, tuple(256 / 255 * value for value in self.std))

    @property
    def units(self) -> Tensor:
        """Of each channel (C,) how many 8-bit values one model unit is, float64."""
        return 255 * torch.tensor(self.std).double()

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Of each channel (C,) the model units of black and of white, float64."""
        mean, std = torch.tensor(self.mean).double(), torch.tensor(self.std).double()
        return -mean / std, (1 - mean) / std

    def _over(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[1] != len(self.mean):
            raise UserError(
                f"images must have {len(self.mean)} channels, as those measured, got {x.shape[1]}"
            )
        mean, std = x.new_tensor(self.mean), x.new_tensor(self.std)
        return mean.reshape(1, -1, 1, 1), std.reshape(1, -1, 1, 1)
