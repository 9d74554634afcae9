"""A U-Net that is fast on CPUs: most of its computation is in 3x3 convolutions.

On CPUs with bf16 units, a 3x3 convolution costs little more than the norms and activations around it. The
time depends on how often the activations are read from memory and written to it. Therefore a block has one
norm, over the channels of each pixel, which needs no second pass for statistics. Skip connections are added,
not concatenated. The resolution changes by 2x2 convolutions of stride 2, and the stage at full resolution has
few channels.

The path from the input to the output at full resolution has no norm and no activation. Its first convolution,
residual sums and last convolution are linear and float32, so that pixels keep their precision. Before the
last convolution, each channel is multiplied by a gain that depends on the conditioning.
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim.nn.base import Network, NetworkSpec
from ddim.nn.blocks import Attention, ExactConv2d, zero_init
from ddim.nn.conditioning import ClassEmbedding, Sinusoidal, VectorEmbedding
from ddim.nn.recompute import Recomputable

POSITIONS = 64
"""Channels of the embeddings of the noise level, the label and the augmentation, before the perceptron."""


@dataclass(frozen=True)
class UNetSpec(NetworkSpec):
    """Options of `UNet`; the defaults are the options of recipe `fast`.

    Attributes:
        widths: channels of each stage, from full resolution down; all stages but the last halve height and
            width.
        down: blocks of each stage on the way down.
        up: blocks of each stage on the way up.
        attention: whether each stage has self-attention; it is used on the way up only.
        embedding: channels of the embedding of the conditioning in each block.
        augment: number of augmentation labels that the network is conditioned on.
        classes: number of class labels.
        vector: length of the vector that the network is conditioned on in place of a class.
    """

    widths: tuple[int, ...] = (24, 48, 96, 192)
    down: tuple[int, ...] = (0, 1, 1, 2)
    up: tuple[int, ...] = (1, 1, 2, 2)
    attention: tuple[bool, ...] = (False, False, False, True)
    embedding: int = 256
    augment: int = 0
    classes: int = 0
    vector: int = 0

    def network(self, channels: int) -> nn.Module:
        """Build the network for images with this number of channels."""
        return UNet(channels, self)


class ChannelNorm(nn.LayerNorm):
    """Layer norm (Ba et al. 2016) over the channels of each pixel."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """Normalise (B, C, H, W); the shape stays the same."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class Block(Recomputable):
    """A residual block of two 3x3 convolutions; between them the embedding scales and shifts the channels.

    The initial weights make the block the identity. Scale and shift are as in Dhariwal & Nichol 2021, section
    3, but without a second norm.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.time_proj = nn.Linear(embedding, 2 * channels)
        self.conv2 = zero_init(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Return the output (B, channels, H, W) for x (B, channels, H, W) and embedded (B, embedding)."""
        scale, shift = self.time_proj(embedded)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm(x))) * (1 + scale) + shift
        return x + self.conv2(F.silu(h))


def build_attention(channels: int) -> Attention:
    """Build self-attention that is initially the identity.

    Heads have at least 64 channels; with fewer channels, there is one head.
    """
    most = max(1, channels // 64)
    heads = next(heads for heads in range(most, 0, -1) if channels % heads == 0)
    attention = Attention(ChannelNorm(channels), channels, heads)
    zero_init(attention.proj)
    return attention


class Stage(nn.Module):
    """Blocks at one resolution, optionally followed by self-attention."""

    def __init__(self, channels: int, depth: int, attend: bool = False, *, embedding: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(channels, embedding) for _ in range(depth))
        self.attention = build_attention(channels) if attend else nn.Identity()

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Return the output (B, channels, H, W) for x (B, channels, H, W) and embedded (B, embedding)."""
        for block in self.blocks:
            x = block(x, embedded)
        return self.attention(x)


class UNet(Network):
    """The network of recipe `fast`.

    A projection of the augmentation labels is added to the embedding of the noise level (Karras et al. 2022,
    appendix F.2), and so is a vector for the label. Initially, both have about the same norm as the
    embedding: if they were smaller, the network would learn classes and augmentations late.
    """

    def __init__(self, channels: int, spec: UNetSpec) -> None:
        super().__init__(spec)
        widths, width = spec.widths, spec.embedding
        # The output varies smoothly with the conditioning, so a maximum frequency of 100 is enough.
        self.embedding = Sinusoidal(POSITIONS, max_frequency=100.0)
        self.time_mlp = nn.Sequential(
            nn.Linear(POSITIONS, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.in_conv = ExactConv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(map(partial(Stage, embedding=width), widths, spec.down))
        self.up = nn.ModuleList(map(partial(Stage, embedding=width), widths, spec.up, spec.attention))
        self.downsample = nn.ModuleList(nn.Conv2d(wide, deep, 2, stride=2) for wide, deep in pairwise(widths))
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(deep, wide, 2, 2) for wide, deep in pairwise(widths))
        self.out_gain = zero_init(nn.Linear(width, widths[0]))
        self.out_conv = zero_init(ExactConv2d(widths[0], channels, 3, padding=1))
        if spec.augment:
            self.augment_proj = nn.Linear(spec.augment, POSITIONS, bias=False)
            nn.init.normal_(self.augment_proj.weight)
        if spec.classes:
            self.class_embedding = ClassEmbedding(spec.classes, POSITIONS)
        if spec.vector:
            self.vector_embedding = VectorEmbedding(spec.vector, POSITIONS)

    def embed(self, conditioning: Tensor, label: Tensor | None, augment: Tensor | None) -> Tensor:
        """Return the embedding (B, embedding); see `Network`."""
        embedded = self.add_augmentation(self.embedding(conditioning), augment)
        return self.time_mlp(self.add_label(embedded, label))

    def denoise(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Return F (B, C, H, W) for padded images of the same shape."""
        # The gain is float32, like the path at full resolution that it scales.
        with torch.autocast(x.device.type, enabled=False):
            gain = 1 + self.out_gain(embedded)[:, :, None, None]
        x = self.down[0](self.in_conv(x), embedded)
        skips = [x]
        for downsample, stage in zip(self.downsample, self.down[1:], strict=True):
            x = stage(downsample(x), embedded)
            skips.append(x)
        x = self.up[-1](skips.pop(), embedded)
        for upsample, stage in zip(reversed(self.upsample), reversed(self.up[:-1]), strict=True):
            x = stage(skips.pop() + upsample(x), embedded)
        return self.out_conv(x * gain)
