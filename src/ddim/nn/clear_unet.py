"""The U-Net of clear-diffusion-keras (Béres 2022): conditioned residual blocks, attention and patches.

It shares its block with `ddpm_unet`. Unlike that network, it changes the resolution without weights, by mean
pooling and bilinear interpolation. Each attention head has as many channels as its stage. There is no norm
before the last convolution.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim.nn.base import Network, NetworkSpec
from ddim.nn.blocks import Attention, ExactConv2d, glorot_init, upsample_2x, zero_init
from ddim.nn.conditioning import Sinusoidal
from ddim.nn.ddpm_unet import Block

_EPS = 1e-3
"""Epsilon of group norms in Keras."""


@dataclass(frozen=True)
class ClearUNetSpec(NetworkSpec):
    """Options of `ClearUNet`; the defaults are the options of the original network.

    The small network of the original has widths 32, 64, 96, 128 and no attention.

    Attributes:
        widths: channels of each stage, from full resolution down to the lowest resolution.
        attention: whether each stage has self-attention, after each of its blocks.
        depth: blocks per stage, on the way down and on the way up.
        stem: channels of the first convolution.
        patch: side, in pixels, of the patches of the first and the last convolution.
        heads: number of attention heads.
        groups: number of groups of each group norm.
        embedding: channels of the embedding of the conditioning.
        max_frequency: the largest frequency of the embedding, in periods per unit.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    attention: tuple[bool, ...] = (False, False, True, True)
    depth: int = 2
    stem: int = 64
    patch: int = 1
    heads: int = 4
    groups: int = 8
    embedding: int = 64
    max_frequency: float = 1000.0

    def norm(self, channels: int) -> nn.GroupNorm:
        """Build a group norm with weights."""
        return nn.GroupNorm(self.groups, channels, _EPS)

    def attend(self, width: int) -> Attention:
        """Build self-attention with `width` channels in each head, after a norm without weights."""
        norm = nn.GroupNorm(self.groups, width, _EPS, affine=False)
        return Attention(norm, width, self.heads, inner=self.heads * width)

    def network(self, channels: int) -> nn.Module:
        """Build the network for images with this number of channels."""
        return ClearUNet(channels, self)


class Stage(nn.Module):
    """Blocks at one resolution, each optionally followed by self-attention.

    The input of each block has `skips` additional channels, from a skip connection.
    """

    def __init__(self, now: int, stage: int, spec: ClearUNetSpec, skips: int = 0) -> None:
        super().__init__()
        width = spec.widths[stage]
        self.blocks, self.attention = nn.ModuleList(), nn.ModuleList()
        for k in range(spec.depth):
            channels = (width if k else now) + skips
            # At full resolution the projection is on the path of x_t, so it must be float32 (`ExactConv2d`).
            self.blocks.append(Block(channels, width, spec.embedding, norm=spec.norm, exact=stage == 0))
            self.attention.append(spec.attend(width) if spec.attention[stage] else nn.Identity())

    def forward(self, x: Tensor, embedded: Tensor, skips: list[Tensor]) -> list[Tensor]:
        """Return the outputs of all blocks for x (B, now, H, W), given embedded (B, embedding).

        `skips` holds the inputs from skip connections; the last is used first.
        """
        outputs = []
        for block, attention in zip(self.blocks, self.attention, strict=True):
            x = attention(block(torch.cat([x, skips.pop()], dim=1) if skips else x, embedded))
            outputs.append(x)
        return outputs


class ClearUNet(Network):
    """The network of clear-diffusion-keras.

    Initial weights are drawn as in Keras. The last convolution is initially zero, which makes F initially
    zero.
    """

    def __init__(self, channels: int, spec: ClearUNetSpec) -> None:
        super().__init__(spec)
        last, e = len(spec.widths) - 1, spec.embedding
        self.embedding = Sinusoidal(e, spec.max_frequency)
        self.time_mlp = nn.Sequential(nn.Linear(e, e), nn.SiLU(), nn.Linear(e, e), nn.SiLU())
        self.in_conv = ExactConv2d(channels, spec.stem, spec.patch, stride=spec.patch)
        before = (spec.stem, *spec.widths)
        self.down = nn.ModuleList(Stage(before[k], k, spec) for k in range(last))
        self.middle = Stage(before[last], last, spec)
        self.up = nn.ModuleList(
            Stage(spec.widths[k + 1], k, spec, skips=spec.widths[k]) for k in reversed(range(last))
        )
        self.out_conv = nn.ConvTranspose2d(spec.widths[0], channels, spec.patch, stride=spec.patch)
        self.apply(glorot_init)
        for module in self.modules():
            if isinstance(module, Attention):
                initialise_attention(module)
        zero_init(self.out_conv)

    def embed(self, conditioning: Tensor, label: Tensor | None, augment: Tensor | None) -> Tensor:
        """Return the embedding (B, embedding); the network has no labels."""
        return self.time_mlp(self.embedding(conditioning))

    def denoise(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Return F (B, C, H, W) for padded images of the same shape."""
        x, skips = self.in_conv(x), []
        for stage in self.down:
            outputs = stage(x, embedded, [])
            skips.append(outputs)
            x = F.avg_pool2d(outputs[-1], 2)
        x = self.middle(x, embedded, [])[-1]
        for stage in self.up:
            x = stage(upsample_2x(x), embedded, skips.pop())[-1]
        # The last convolution is float32, like `ExactConv2d`.
        with torch.autocast(x.device.type, enabled=False):
            return self.out_conv(x.float())


def initialise_attention(attention: Attention) -> None:
    """Draw the weights uniformly within Glorot's bounds, as Keras computes these bounds for attention.

    The kernels of attention in Keras have an axis for the heads: (C, heads, C) and (heads, C, C). Keras
    treats the first axis like the spatial axes of a convolution, so its size is a factor of both fans.
    """
    heads, channels = attention.heads, attention.qkv.in_channels
    for layer, others in (attention.qkv, heads + channels), (attention.proj, 2 * heads):
        bound = (6 / (channels * others)) ** 0.5
        nn.init.uniform_(layer.weight, -bound, bound)
