"""The U-Net of the seed's family: the noise level is concatenated to the image, once, at the input.

Béres' Keras tutorial (2022) and its torch/luz translation are this class under two sets of options; they
share every idea and differ in widths, in the residual path and in the batch norm.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim.errors import UserError, check_positive
from ddim.nn.blocks import Exact, doubled, glorot, padded, zeroed
from ddim.nn.embedding import Sinusoidal


@dataclass(frozen=True)
class ResidualUNetSpec:
    """`ResidualUNet`, by its options; the defaults are the torch/luz network's.

    `widths` are the levels, from full resolution down, each of `depth` blocks and followed by a 2x2 mean.
    `middle` are the blocks at the bottom. With `keras` False it is the torch/luz network: every residual path
    is a 1x1 convolution, batch norm has weights, and on the way up a level already has the width of the next
    one. With `keras` True it is the tutorial: identity where widths agree, batch norm without weights, each
    level its own width, Glorot initialisation.
    """

    widths: tuple[int, ...] = (32, 64, 96, 128)
    middle: tuple[int, ...] = (256, 128)
    depth: int = 2
    embedding: int = 32
    max_frequency: float = 1000.0
    keras: bool = False
    # Without annotations these are not fields: a recipe cannot set them.
    classes, augment, outputs, takes_classes = 0, 0, 1, False

    def __post_init__(self) -> None:
        check_positive("net", depth=self.depth, embedding=self.embedding, max_frequency=self.max_frequency)
        check_positive("net", widths=min(self.widths, default=0), middle=min(self.middle, default=1))
        if self.embedding % 2:
            raise UserError(f"net.embedding must be even, a sine and a cosine each, got {self.embedding}")

    @property
    def multiple(self) -> int:
        """What heights and widths are padded to a multiple of."""
        return 2 ** len(self.widths)

    def network(self, channels: int) -> nn.Module:
        """The network for images of so many channels, freshly initialised."""
        return ResidualUNet(channels, self)


class Residual(nn.Module):
    """Batch norm, 3x3 convolution, swish, 3x3 convolution, added to the input or its 1x1 projection."""

    def __init__(self, channels: int, out: int, *, keras: bool) -> None:
        super().__init__()
        # Keras counts the momentum from the other end, and calls the affine part center and scale.
        eps, momentum = (1e-3, 0.01) if keras else (1e-5, 0.1)
        self.norm = nn.BatchNorm2d(channels, eps, momentum, affine=not keras)
        self.first = nn.Conv2d(channels, out, 3, padding=1)
        self.second = nn.Conv2d(out, out, 3, padding=1)
        identity = keras and channels == out
        self.project = nn.Identity() if identity else Exact(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H, W)."""
        return self.project(x) + self.second(F.silu(self.first(self.norm(x))))


class ResidualUNet(nn.Module):
    """(x, conditioning) -> F of the same shape as x; any height and width are padded and cropped."""

    classes, augment, outputs = 0, 0, 1

    def __init__(self, channels: int, spec: ResidualUNetSpec) -> None:
        super().__init__()
        self.multiple, widths, keras = spec.multiple, spec.widths, spec.keras
        self.embedding = Sinusoidal(spec.embedding, spec.max_frequency)
        self.enter = Exact(channels, widths[0], 1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        now = widths[0] + spec.embedding

        def block(out: int, skip: int = 0) -> Residual:
            nonlocal now
            made, now = Residual(now + skip, out, keras=keras), out
            return made

        for width in widths:
            self.down.append(nn.ModuleList(block(width) for _ in range(spec.depth)))
        self.middle = nn.Sequential(*(block(width) for width in spec.middle))
        outs = widths if keras else (spec.embedding, *widths[:-1])
        for width, out in zip(reversed(widths), reversed(outs), strict=True):
            self.up.append(nn.ModuleList(block(out, skip=width) for _ in range(spec.depth)))
        self.leave = zeroed(Exact(now, channels, 1))
        if keras:
            self.apply(glorot)
            zeroed(self.leave)

    def forward(self, x: Tensor, conditioning: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), conditioning (B,) -> (B, C, H, W)."""
        told = self.embedding(conditioning)[:, :, None, None]
        return padded(x, self.multiple, lambda image: self._padded(image, told))

    def _padded(self, x: Tensor, told: Tensor) -> Tensor:
        skips: list[Tensor] = []
        x = torch.cat([self.enter(x), told.expand(-1, -1, *x.shape[-2:])], dim=1)
        for level in self.down:
            for block in level.children():
                x = block(x)
                skips.append(x)
            x = F.avg_pool2d(x, 2)
        x = self.middle(x)
        for level in self.up:
            x = doubled(x)
            for block in level.children():
                x = block(torch.cat([x, skips.pop()], dim=1))
        return self.leave(x)
