"""The blocks of the U-Net of Ho et al. 2020 and its successors, and its up- and downsampling layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim.nn.blocks import Attention, Dropout, ExactConv2d, upsample_2x
from ddim.nn.recompute import Recomputable


class Block(Recomputable):
    """A residual block that applies group norm, swish and a 3x3 convolution twice, given the embedding.

    Args:
        channels: channels of the input; if they differ from `out`, a 1x1 convolution projects the input.
        out: channels of the output.
        embedding: channels of the embedding.
        norm: a function that builds a norm for a number of channels.
        dropout: probability of dropout, before the second convolution.
        scale_shift: whether the embedding scales and shifts the output of the second norm (Nichol & Dhariwal
            2021, eq. 21). Otherwise it is added before that norm.
        scale: factor of the residual sum.
        resize: layer that changes the resolution. It is applied to the input, and in the residual branch
            before the first convolution (Song et al. 2021b, after Brock et al. 2019).
        project: whether to project the input even if `channels` equals `out`.
        exact: whether to compute the projection in float32 even under autocast.
    """

    def __init__(  # noqa: PLR0913  (the options of one block)
        self,
        channels: int,
        out: int,
        embedding: int,
        *,
        norm: Callable[[int], nn.Module],
        dropout: float = 0.0,
        scale_shift: bool = False,
        scale: float = 1.0,
        resize: nn.Module | None = None,
        project: bool = False,
        exact: bool = False,
    ) -> None:
        super().__init__()
        self.scale_shift, self.scale = scale_shift, scale
        self.resize = resize or nn.Identity()
        self.norm1 = norm(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.time_proj = nn.Linear(embedding, 2 * out if scale_shift else out)
        self.norm2 = norm(out)
        self.dropout = Dropout(dropout)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        kind = ExactConv2d if exact else nn.Conv2d
        self.shortcut = kind(channels, out, 1) if project or channels != out else nn.Identity()

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Return the output (B, out, H, W) for x (B, channels, H, W) and the embedding (B, embedding).

        If the block has a layer `resize`, the height and width are those that this layer produces.
        """
        h = self.conv1(self.resize(F.silu(self.norm1(x))))
        embedded = self.time_proj(embedded)[:, :, None, None]
        if self.scale_shift:
            scale, shift = embedded.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + embedded)
        h = self.conv2(self.dropout(F.silu(h)))
        return (self.shortcut(self.resize(x)) + h) * self.scale


class AttentionBlock(nn.Module):
    """A residual block, optionally followed by self-attention."""

    def __init__(self, block: Block, attention: Attention | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention or nn.Identity()

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Return the output (B, out, H, W) for x (B, channels, H, W) and the embedding (B, embedding)."""
        return self.attention(self.block(x, embedded))


class Downsample(nn.Conv2d):
    """A 3x3 convolution of stride 2.

    If `same` is set, its input is padded with zeros only at the bottom and right, as in TensorFlow. Otherwise
    the input is padded with zeros on all sides.
    """

    def __init__(self, channels: int, *, same: bool) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=0 if same else 1)
        self.same = same

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:  # type: ignore[override]
        """Halve the resolution of x (B, channels, H, W), with even H and W. `embedded` is not used."""
        return super().forward(F.pad(x, (0, 1, 0, 1)) if self.same else x)


class Upsample(nn.Conv2d):
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:  # type: ignore[override]
        """Double the resolution of x (B, channels, H, W). `embedded` is not used."""
        return super().forward(upsample_2x(x, "nearest"))


class Filter(nn.Module):
    """A layer without weights that halves or doubles the resolution (Zhang 2019).

    Args:
        up: whether to double the resolution instead of halving it.
        blur: whether to use the filter 1, 3, 3, 1 along both axes, instead of 2x2 mean pooling or copies of
            pixels.
        pad: whether to pad the image with the zeros that `blur` needs; False if it is already padded.
    """

    def __init__(self, *, up: bool = False, blur: bool = False, pad: bool = True) -> None:
        super().__init__()
        self.up = up
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0] if blur else [1.0, 1.0])
        self.padding = (len(taps) - 2) // 2 if pad else 0
        self.register_buffer("taps", torch.outer(taps, taps) / taps.sum() ** 2, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Resize x (B, C, H, W) to (B, C, H / 2, W / 2), or to (B, C, 2H, 2W) if `up`."""
        channels = x.shape[1]
        weight = self.taps.to(x.dtype).expand(channels, 1, -1, -1)
        if self.up:
            return F.conv_transpose2d(x, 4 * weight, stride=2, padding=self.padding, groups=channels)
        return F.conv2d(x, weight, stride=2, padding=self.padding, groups=channels)
