"""The U-Net of denoising-diffusion-pytorch (Wang 2020 to 2026), with linear attention.

It descends from the U-Net of Ho et al. 2020. Each stage has two residual blocks and one attention: full
attention in the lowest stage, linear attention in the others (Shen et al. 2021). The time of linear attention
grows with the number of pixels, not with its square. Queries also attend to a few learned keys and values.
The norm divides the channels of each pixel by their root mean square (Zhang & Sennrich 2019).

At full resolution, the path of x_t stays float32 under autocast: the first convolution, the projection of the
last block and the last convolution (see `ExactConv2d`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim.errors import UserError, check_positive
from ddim.nn.blocks import Dropout, ExactConv2d, apply_padded, upsample_2x, zero_init
from ddim.nn.embedding import Positional
from ddim.nn.recompute import Recomputable


@dataclass(frozen=True)
class LinearAttentionUNetSpec:
    """Options of `LinearAttentionUNet`; the defaults are those of the original network with 64 channels.

    Attributes:
        width: the number of channels that `multipliers` multiply; even; the embedding has 4 * width channels.
        multipliers: channels at the end of each stage, as multiples of `width`; all stages but the last
            halve height and width.
        attention: whether each stage has full attention in place of linear attention.
        heads: number of attention heads.
        head: channels per head.
        memory: learned keys and values of each head, to which every pixel attends.
        stem: channels of the first convolution; None for `width`.
        dropout: probability of dropout.
    """

    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    attention: tuple[bool, ...] = (False, False, False, True)
    heads: int = 4
    head: int = 32
    memory: int = 4
    stem: int | None = None
    dropout: float = 0.0
    # Without annotations these are not fields: a recipe cannot set them.
    classes, augment, outputs, takes_classes, vector, takes_vector = 0, 0, 1, False, 0, False

    def __post_init__(self) -> None:
        check_positive("net", width=self.width, heads=self.heads, head=self.head, memory=self.memory)
        check_positive("net", stem=self.width if self.stem is None else self.stem)
        if self.width < 4 or self.width % 2:
            raise UserError(f"net.width must be even and at least 4, got {self.width}")
        if len(self.multipliers) != len(self.attention) or min(self.multipliers, default=0) < 1:
            raise UserError(
                "net.multipliers and net.attention must have one entry per stage, multipliers above 0, "
                f"got {self.multipliers} and {self.attention}"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"net.dropout must be at least 0 and less than 1, got {self.dropout}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the blocks of each stage on the way down, then those of the middle."""
        return (self.stem or self.width, *(self.width * multiplier for multiplier in self.multipliers))

    @property
    def multiple(self) -> int:
        """Heights and widths are padded to a multiple of this number of pixels."""
        return 2 ** (len(self.multipliers) - 1)

    def network(self, channels: int) -> nn.Module:
        """Build the network for images with this number of channels."""
        return LinearAttentionUNet(channels, self)


class PixelNorm(nn.Module):
    """Divide the channels of each pixel by their root mean square, and multiply them by weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W); the shape stays the same."""
        return F.normalize(x, dim=1) * (self.weight * len(self.weight) ** 0.5)[:, None, None]


class ResidualBlock(Recomputable):
    """A residual block that applies a 3x3 convolution, a norm and swish twice.

    The embedding scales and shifts the output of the first norm.
    """

    def __init__(
        self, channels: int, out: int, embedding: int, dropout: float, *, exact: bool = False
    ) -> None:
        super().__init__()
        self.time_proj = nn.Linear(embedding, 2 * out)
        self.conv1, self.norm1 = nn.Conv2d(channels, out, 3, padding=1), PixelNorm(out)
        self.dropout = Dropout(dropout)
        self.conv2, self.norm2 = nn.Conv2d(out, out, 3, padding=1), PixelNorm(out)
        kind = ExactConv2d if exact else nn.Conv2d
        self.shortcut = nn.Identity() if channels == out else kind(channels, out, 1)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Return the output (B, out, H, W) for x (B, channels, H, W) and embedded (B, embedding)."""
        scale, shift = self.time_proj(F.silu(embedded))[:, :, None, None].chunk(2, dim=1)
        h = self.dropout(F.silu(self.norm1(self.conv1(x)) * (scale + 1) + shift))
        return F.silu(self.norm2(self.conv2(h))) + self.shortcut(x)


class MemoryAttention(Recomputable):
    """Self-attention over the pixels and a few learned keys and values, added to its input.

    Args:
        channels: channels of the input and the output.
        heads: number of heads.
        head: channels per head.
        memory: number of learned keys and values of each head.
        linear: whether the attention is linear: a softmax over the channels of each query, and one over the
            pixels for each channel of the keys. Their product needs no score for each pair of pixels.
    """

    def __init__(self, channels: int, heads: int, head: int, memory: int, *, linear: bool) -> None:
        super().__init__()
        self.heads, self.linear = heads, linear
        self.norm = PixelNorm(channels)
        # Keys and values; the original stores those of full attention with the channels last.
        self.memory = nn.Parameter(torch.empty(2, heads, *((head, memory) if linear else (memory, head))))
        nn.init.normal_(self.memory)
        self.qkv = nn.Conv2d(channels, 3 * heads * head, 1, bias=False)
        self.proj = nn.Conv2d(heads * head, channels, 1)
        self.out_norm = PixelNorm(channels) if linear else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the attention to x (B, channels, H, W); the shape stays the same."""
        b, _, height, width = x.shape
        # Each (B, heads, head, H * W).
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, self.heads, -1, height * width).unbind(1)
        memory = self.memory.to(q.dtype) if self.linear else self.memory.to(q.dtype).transpose(2, 3)
        k, v = (
            torch.cat([own.expand(b, -1, -1, -1), of], dim=3) for own, of in zip(memory, (k, v), strict=True)
        )
        if self.linear:
            context = k.softmax(dim=3) @ v.transpose(2, 3)  # (B, heads, head, head)
            mixed = context.transpose(2, 3) @ (q.softmax(dim=2) * q.shape[2] ** -0.5)
        else:
            q, k, v = (each.transpose(2, 3) for each in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(2, 3)
        return x + self.out_norm(self.proj(mixed.reshape(b, -1, height, width)))


class Stage(nn.Module):
    """Two residual blocks and an attention at one resolution; each block maps `now` channels to `out`."""

    def __init__(self, now: int, out: int, spec: LinearAttentionUNetSpec, *, linear: bool) -> None:
        super().__init__()
        self.block1 = ResidualBlock(now, out, 4 * spec.width, spec.dropout)
        self.block2 = ResidualBlock(now, out, 4 * spec.width, spec.dropout)
        self.attention = MemoryAttention(out, spec.heads, spec.head, spec.memory, linear=linear)

    def forward(self, x: Tensor, embedded: Tensor, skips: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
        """Return the outputs of the first block and of the attention, given embedded (B, embedding).

        `skips` are further inputs of the two blocks, from skip connections.
        """
        first = self.block1(torch.cat([x, *skips[:1]], dim=1), embedded)
        return first, self.attention(self.block2(torch.cat([first, *skips[1:]], dim=1), embedded))


class LinearAttentionUNet(nn.Module):
    """The network (x, conditioning) -> F, with F shaped like x, for images of any height and width.

    Images are padded, and the output is cropped. The last convolution is initially zero, which makes F
    initially zero.
    """

    classes, augment, outputs = 0, 0, 1

    def __init__(self, channels: int, spec: LinearAttentionUNetSpec) -> None:
        super().__init__()
        self.multiple, widths, embedding = spec.multiple, spec.widths, 4 * spec.width
        self.embedding = Positional(spec.width)
        self.time_mlp = nn.Sequential(
            nn.Linear(spec.width, embedding), nn.GELU(), nn.Linear(embedding, embedding)
        )
        self.in_conv = ExactConv2d(channels, widths[0], 7, padding=3)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.downsample, self.upsample = nn.ModuleList(), nn.ModuleList()
        last = len(spec.attention) - 1
        for k, full in enumerate(spec.attention):
            now, out = widths[k], widths[k + 1]
            self.down.append(Stage(now, now, spec, linear=not full))
            # The lowest stage keeps its resolution.
            self.downsample.append(
                nn.Conv2d(now, out, 3, padding=1) if k == last else nn.Conv2d(4 * now, out, 1)
            )
        self.middle1 = ResidualBlock(widths[-1], widths[-1], embedding, spec.dropout)
        self.middle_attention = MemoryAttention(widths[-1], spec.heads, spec.head, spec.memory, linear=False)
        self.middle2 = ResidualBlock(widths[-1], widths[-1], embedding, spec.dropout)
        for k, full in reversed([*enumerate(spec.attention)]):
            now, out = widths[k], widths[k + 1]
            self.up.append(Stage(now + out, out, spec, linear=not full))
            self.upsample.append(nn.Conv2d(out, now, 3, padding=1))
        self.out_block = ResidualBlock(2 * widths[0], widths[0], embedding, spec.dropout, exact=True)
        self.out_conv = zero_init(ExactConv2d(widths[0], channels, 1))

    def forward(self, x: Tensor, conditioning: Tensor, label: Tensor | None = None) -> Tensor:
        """Return F (B, C, H, W) for x (B, C, H, W) and conditioning (B,). `label` is not used."""
        with torch.autocast(x.device.type, enabled=False):
            embedded = self.time_mlp(self.embedding(conditioning))
        return apply_padded(lambda image: self._padded(image, embedded), x, self.multiple)

    def _padded(self, x: Tensor, embedded: Tensor) -> Tensor:
        first = x = self.in_conv(x)
        skips = []
        last = len(self.down) - 1
        for k, (stage, downsample) in enumerate(zip(self.down, self.downsample, strict=True)):
            outputs = stage(x, embedded)
            skips.append(outputs)
            x = downsample(outputs[1] if k == last else F.pixel_unshuffle(outputs[1], 2))
        x = self.middle2(self.middle_attention(self.middle1(x, embedded)), embedded)
        for k, (stage, upsample) in enumerate(zip(self.up, self.upsample, strict=True)):
            _, x = stage(x, embedded, skips.pop()[::-1])
            x = upsample(x if k == last else upsample_2x(x, "nearest"))
        return self.out_conv(self.out_block(torch.cat([x, first], dim=1), embedded))
