"""A U-Net that spends its arithmetic where a processor is fast: few pixels, many channels.

Pixels are folded into channels (Shi et al. 2016) before the first convolution; the noise level scales and
shifts each normalised block (Dhariwal & Nichol 2021, section 3); attention where the image is small.

No norm or activation stands on the way from x_t to the output: residual stream, skips, projections and the
last convolution are linear, so that single pixels pass unharmed. How much of them passes is told: where there
is little noise nearly all, where there is much nearly none.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim.nn.blocks import Exact, padded, zeroed
from ddim.nn.embedding import Sinusoidal


class Attention(nn.Module):
    """Multi-head self-attention over the pixels (Vaswani et al. 2017), added to its input."""

    def __init__(self, channels: int, head: int = 32) -> None:
        super().__init__()
        most = max(1, channels // head)
        self.heads = next(heads for heads in range(most, 0, -1) if channels % heads == 0)
        self.norm = nn.GroupNorm(1, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)  # (B, HW, 3C)
        q, k, v = qkv.reshape(b, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        return x + self.out(mixed.transpose(1, 2).reshape(b, c, h, w))


class Block(nn.Module):
    """Two 3x3 convolutions, the second scaled and shifted by what is told; starts as the identity."""

    def __init__(self, channels: int, out: int, told: int, groups: int = 8) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.first = nn.Conv2d(channels, out, 3, padding=1)
        self.told = nn.Linear(told, 2 * out)
        self.second_norm = nn.GroupNorm(groups, out, affine=False)
        self.second = zeroed(nn.Conv2d(out, out, 3, padding=1))
        self.project = nn.Identity() if channels == out else Exact(channels, out, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """x (B, channels, H, W), told (B, told) -> (B, out, H, W)."""
        scale, shift = self.told(told)[:, :, None, None].chunk(2, dim=1)
        h = self.second_norm(self.first(F.silu(self.norm(x)))) * (1 + scale) + shift
        return self.project(x) + self.second(F.silu(h))


class UNet(nn.Module):
    """(x, conditioning) -> F of the same shape as x; heights and widths of any size are padded and cropped.

    `widths` and `depths` give channels and blocks of each level on the way down and on the way up; each
    level has half the height and width of the one before, the first that of the image folded by `patch`.
    `attention` says at which levels every block is followed by attention.
    """

    classes = 0

    def __init__(  # noqa: PLR0913  (the options of one architecture, filled from its frozen spec)
        self,
        channels: int,
        patch: int,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        attention: tuple[bool, ...],
        told: int,
    ) -> None:
        super().__init__()
        self.patch, self.multiple = patch, patch * 2 ** (len(widths) - 1)
        # The conditioning changes slowly with time: a hundred turns over its range resolve it.
        self.embedding = Sinusoidal(64, max_frequency=100.0)
        self.tell = nn.Sequential(nn.Linear(64, told), nn.SiLU(), nn.Linear(told, told), nn.SiLU())
        folded = channels * patch**2
        self.enter = Exact(folded, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        now = widths[0]
        for width, depth, attend in zip(widths, depths, attention, strict=True):
            self.down.append(_level(now, width, depth, told, attend=attend))
            now = width
        for width, depth, attend in reversed(list(zip(widths, depths, attention, strict=True))):
            self.up.append(_level(now + width, width, depth, told, attend=attend))
            now = width
        self.gain = zeroed(nn.Linear(told, now))
        self.leave = zeroed(Exact(now, folded, 3, padding=1))

    def forward(self, x: Tensor, conditioning: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), conditioning (B,) -> (B, C, H, W)."""
        # As exact as the path of x_t that the gain scales.
        with torch.autocast(x.device.type, enabled=False):
            told = self.tell(self.embedding(conditioning))
            gain = 1 + self.gain(told)[:, :, None, None]
        return padded(x, self.multiple, lambda image: self._padded(image, told, gain))

    def _padded(self, x: Tensor, told: Tensor, gain: Tensor) -> Tensor:
        x = self.enter(F.pixel_unshuffle(x, self.patch))
        skips = []
        for i, level in enumerate(self.down):
            if i:
                x = F.avg_pool2d(x, 2)
            x = _through(level, x, told)
            skips.append(x)
        for i, level in enumerate(self.up):
            if i:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = _through(level, torch.cat([x, skips.pop()], dim=1), told)
        return F.pixel_shuffle(self.leave(x * gain), self.patch)


def _level(channels: int, width: int, depth: int, told: int, *, attend: bool) -> nn.ModuleList:
    pieces = nn.ModuleList()
    for i in range(depth):
        pieces.append(Block(channels if i == 0 else width, width, told))
        if attend:
            pieces.append(Attention(width))
    return pieces


def _through(level: nn.Module, x: Tensor, told: Tensor) -> Tensor:
    for piece in level.children():
        x = piece(x, told) if isinstance(piece, Block) else piece(x)
    return x
