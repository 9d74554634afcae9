"""Pieces that more than one network is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class Exact(nn.Conv2d):
    """A convolution in float32 even under autocast.

    For what the image depends on to first order: a network that predicts noise where the signal rate is 0.02
    has its errors multiplied by 50, so x_t must reach the output unrounded. Such networks are built with
    Exact on the whole path from x_t to the output; only the branches that are added to it are rounded.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """(B, C, H, W) -> (B, C', H', W') float32."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def zeroed(layer: Layer) -> Layer:
    """The layer, starting as the zero function."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def padded(x: Tensor, multiple: int, net: Callable[[Tensor], Tensor]) -> Tensor:
    """net(x) for x (B, C, H, W) of any height and width, by a net that needs multiples of `multiple`.

    Zeros are added at the bottom and right, as the convolutions add them, and cropped from the output.
    """
    height, width = x.shape[-2:]
    extra = (0, -width % multiple, 0, -height % multiple)
    return net(F.pad(x, extra) if any(extra) else x)[..., :height, :width]
