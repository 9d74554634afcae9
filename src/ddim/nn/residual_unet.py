"""The U-Net of Béres' Keras tutorial and of torch/luz.

Its input is the image, concatenated with an embedding of the noise level. The tutorial (2022) and its
translation to torch/luz are two sets of options of this class. They differ in widths, residual connections
and batch norm.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim.nn.base import Network, NetworkSpec
from ddim.nn.batch_norm import BatchNorm2d
from ddim.nn.blocks import ExactConv2d, glorot_init, upsample_2x, zero_init
from ddim.nn.conditioning import Sinusoidal
from ddim.nn.recompute import Recomputable


@dataclass(frozen=True)
class ResidualUNetSpec(NetworkSpec):
    """Options of `ResidualUNet`; the defaults are the options of the torch/luz network.

    Attributes:
        widths: channels of each stage, from full resolution down; 2x2 mean pooling follows each stage.
        middle: channels of each block at the lowest resolution.
        depth: blocks per stage, on the way down and on the way up.
        embedding: channels of the embedding of the conditioning.
        max_frequency: the largest frequency of the embedding, in periods per unit.
        keras: True for the network of the Keras tutorial. Residual connections are the identity if input and
            output have equally many channels. Batch norm has no weights. A stage has the same width on the
            way up as on the way down. Weights have Glorot initialisation. False for the network of torch/luz:
            residual connections are 1x1 convolutions, and batch norm has weights. A stage on the way up has
            the width of the next higher resolution on the way down; the last stage has `embedding` channels.
    """

    widths: tuple[int, ...] = (32, 64, 96, 128)
    middle: tuple[int, ...] = (256, 128)
    depth: int = 2
    embedding: int = 32
    max_frequency: float = 1000.0
    keras: bool = False

    @property
    def multiple(self) -> int:
        """Heights and widths are padded to a multiple of this number of pixels."""
        return 2 ** len(self.widths)

    def network(self, channels: int) -> nn.Module:
        """Build the network for images with this number of channels."""
        return ResidualUNet(channels, self)


class ResidualBlock(Recomputable):
    """A residual block: batch norm, 3x3 convolution, swish, 3x3 convolution.

    The result is added to the input, or to a 1x1 convolution of the input.
    """

    def __init__(self, channels: int, out: int, *, keras: bool) -> None:
        super().__init__()
        # Keras's momentum is 1 minus torch's momentum; Keras's `center` and `scale` are torch's `affine`.
        eps, momentum = (1e-3, 0.01) if keras else (1e-5, 0.1)
        self.norm = BatchNorm2d(channels, eps, momentum, affine=not keras)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        identity = keras and channels == out
        self.shortcut = nn.Identity() if identity else ExactConv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to x (B, channels, H, W); return (B, out, H, W)."""
        return self.shortcut(x) + self.conv2(F.silu(self.conv1(self.norm(x))))


class ResidualUNet(Network):
    """The network of the tutorial, or of its translation to torch/luz."""

    def __init__(self, channels: int, spec: ResidualUNetSpec) -> None:
        super().__init__(spec)
        widths, keras = spec.widths, spec.keras
        self.embedding = Sinusoidal(spec.embedding, spec.max_frequency)
        self.in_conv = ExactConv2d(channels, widths[0], 1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        now = widths[0] + spec.embedding

        def block(out: int, skip: int = 0) -> ResidualBlock:
            nonlocal now
            built, now = ResidualBlock(now + skip, out, keras=keras), out
            return built

        for width in widths:
            self.down.append(nn.ModuleList(block(width) for _ in range(spec.depth)))
        self.middle = nn.Sequential(*(block(width) for width in spec.middle))
        outs = widths if keras else (spec.embedding, *widths[:-1])
        for width, out in zip(reversed(widths), reversed(outs), strict=True):
            self.up.append(nn.ModuleList(block(out, skip=width) for _ in range(spec.depth)))
        self.out_conv = zero_init(ExactConv2d(now, channels, 1))
        if keras:
            self.apply(glorot_init)
            zero_init(self.out_conv)

    def embed(self, conditioning: Tensor, label: Tensor | None, augment: Tensor | None) -> Tensor:
        """Return the embedding (B, embedding, 1, 1); the network has no labels."""
        return self.embedding(conditioning)[:, :, None, None]

    def denoise(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Return F (B, C, H, W) for padded images of the same shape."""
        skips: list[Tensor] = []
        x = torch.cat([self.in_conv(x), embedded.expand(-1, -1, *x.shape[-2:])], dim=1)
        for stage in self.down:
            for block in stage.children():
                x = block(x)
                skips.append(x)
            x = F.avg_pool2d(x, 2)
        x = self.middle(x)
        for stage in self.up:
            x = upsample_2x(x)
            for block in stage.children():
                x = block(torch.cat([x, skips.pop()], dim=1))
        return self.out_conv(x)
