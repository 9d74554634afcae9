"""The U-Net of Ho et al. 2020 and its successors: one network with the options of these papers.

|                  | DDPM       | improved DDPM   | DDPM++     | NCSN++     | ADM            |
|------------------|------------|-----------------|------------|------------|----------------|
| `width`          | 128        | 128             | 128        | 128        | 192            |
| `multipliers`    | 1, 2, 2, 2 | 1, 2, 2, 2      | 2, 2, 2    | 2, 2, 2    | 1, 2, 3, 4     |
| `blocks`         | 2          | 3               | 4          | 4          | 3              |
| attention at     | 16 pixels  | 16 and 8 pixels | 16 pixels  | 16 pixels  | 32, 16, 8      |
| `heads`          | 1          | 4               | 1          | 1          | of 64 channels |
| `group_channels` | none       | none            | 4          | 4          | 4              |
| `eps`            | 1e-6       | 1e-5            | 1e-6       | 1e-6       | 1e-5           |
| `embedding`      | sin_cos    | cos_sin         | sin_cos    | fourier    | cos_sin        |
| `scale_shift`    | no         | yes             | no         | no         | yes            |
| `resample`       | same       | strided         | box        | blur       | box            |
| `sde`            | no         | no              | yes        | yes        | no             |
| `pyramid`        | no         | no              | no         | yes        | no             |

Sources: DDPM for images of 32 pixels is from Ho et al. 2020, appendix B, and Song et al. 2021a. Improved DDPM
is from Nichol & Dhariwal 2021. DDPM++ and NCSN++ are from Song et al. 2021b, section 4 and appendix H. ADM
for images of 64 pixels is from Dhariwal & Nichol 2021. The last three have the options in table 7 of Karras
et al. 2022.

At full resolution, the path of x_t stays float32 under autocast: the first convolution, the residual sums,
the projections and the last convolution. The branches that are added to it are bf16 (see `ExactConv2d`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import compress, pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim.errors import UserError
from ddim.nn.base import Network, NetworkSpec
from ddim.nn.blocks import Attention, Dropout, ExactConv2d, glorot_init, upsample_2x, zero_init
from ddim.nn.conditioning import ClassEmbedding, Fourier, Positional, VectorEmbedding
from ddim.nn.recompute import Recomputable

Resample = Literal["same", "strided", "box", "blur"]
"""How the resolution changes between stages.

- "same": a 3x3 convolution of stride 2 halves the resolution. Its input is padded only at the bottom and
  right, as in TensorFlow. A nearest-neighbour upsampling before a 3x3 convolution doubles the resolution.
- "strided": as "same", but the convolution of stride 2 is padded on all sides.
- "box": residual blocks halve the resolution with 2x2 mean pooling, and double it with nearest-neighbour
  upsampling.
- "blur": residual blocks halve and double the resolution with the filter 1, 3, 3, 1.
"""


@dataclass(frozen=True)
class DDPMUNetSpec(NetworkSpec):
    """Options of `DDPMUNet`; the defaults are the options of DDPM for images of 32 pixels.

    Attributes:
        width: channels at full resolution; even.
        multipliers: channels of each stage, as multiples of `width`; all stages but the last halve height and
            width.
        blocks: blocks per stage on the way down; there is one more on the way up.
        attention: whether each stage has self-attention.
        heads: number of attention heads.
        head: channels per head; if given, it replaces `heads`.
        groups: number of groups of each group norm.
        group_channels: the smallest number of channels in a group. A layer of C channels then has at most
            min(groups, C / group_channels) groups, as in the code of Karras et al. 2022. If None, it has
            `groups` groups.
        eps: epsilon of each group norm.
        dropout: probability of dropout.
        embedding: embedding of the noise level: "sin_cos" has sines first, "cos_sin" has cosines first,
            "fourier" has random frequencies.
        scale_shift: whether the embedding scales and shifts the output of the second norm of a block (Nichol
            & Dhariwal 2021, eq. 21). Otherwise it is added before that norm.
        resample: how the resolution changes between stages; see `Resample`.
        sde: whether to use the choices of Song et al. 2021b: residual sums are divided by sqrt(2), and blocks
            that change the resolution project their input. On the way up only the last block of a stage has
            attention. Weights have Glorot initialisation.
        pyramid: whether the downsampled image is also an input of each stage on the way down.
        classes: number of class labels.
        vector: length of the vector that the network is conditioned on in place of a class.
        augment: number of augmentation labels on which the network is conditioned.
        outputs: output channels for each channel of x.
    """

    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention: tuple[bool, ...] = (False, True, False, False)
    heads: int = 1
    head: int | None = None
    groups: int = 32
    group_channels: int | None = None
    eps: float = 1e-6
    dropout: float = 0.1
    embedding: Literal["sin_cos", "cos_sin", "fourier"] = "sin_cos"
    scale_shift: bool = False
    resample: Resample = "same"
    sde: bool = False
    pyramid: bool = False
    classes: int = 0
    augment: int = 0
    outputs: int = 1
    vector: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 2 or (self.group_channels is None and self.width % self.groups):
            given = f"got {self.width} and {self.groups}"
            raise UserError(f"net.width must be even and a multiple of net.groups, {given}")
        # The middle of the network, which has as many channels as the last stage, always has attention.
        attended = [*compress(self.widths, self.attention), self.widths[-1]]
        name, divisor = ("head", self.head) if self.head else ("heads", self.heads)
        if any(channels % divisor for channels in attended):
            raise UserError(f"net.{name} must divide the channels {attended} with attention, got {divisor}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.width * multiplier for multiplier in self.multipliers)

    @property
    def scale(self) -> float:
        """Factor of each residual sum; with `sde` it is sqrt(1/2), which keeps the variance."""
        return 0.5**0.5 if self.sde else 1.0

    def norm(self, channels: int) -> nn.GroupNorm:
        """Build a group norm with `groups` groups, or fewer if `group_channels` requires it."""
        groups = self.groups
        if self.group_channels is not None:
            most = max(1, min(groups, channels // self.group_channels))
            groups = next(count for count in range(most, 0, -1) if channels % count == 0)
        return nn.GroupNorm(groups, channels, self.eps)

    @property
    def block(self) -> Callable[..., Block]:
        """Build a `Block` from its channels and further options."""
        options = {"dropout": self.dropout, "scale_shift": self.scale_shift, "scale": self.scale}
        return partial(Block, embedding=4 * self.width, norm=self.norm, **options)

    def network(self, channels: int) -> nn.Module:
        """Build the network for images with this number of channels."""
        return DDPMUNet(channels, self)


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
    """A residual block of a stage, optionally followed by self-attention."""

    def __init__(self, channels: int, out: int, spec: DDPMUNetSpec, stage: int, *, attend: bool) -> None:
        super().__init__()
        # At full resolution the projection is on the path of x_t, so it must be float32 (`ExactConv2d`).
        self.block = spec.block(channels, out, exact=stage == 0)
        heads = out // spec.head if spec.head else spec.heads
        self.attention = Attention(spec.norm(out), out, heads, scale=spec.scale) if attend else nn.Identity()

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
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0] if blur else [1.0, 1.0], device="cpu")
        self.padding = (len(taps) - 2) // 2 if pad else 0
        self.register_buffer("taps", torch.outer(taps, taps) / taps.sum() ** 2, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Resize x (B, C, H, W) to (B, C, H / 2, W / 2), or to (B, C, 2H, 2W) if `up`."""
        channels = x.shape[1]
        weight = self.taps.to(x.dtype).expand(channels, 1, -1, -1)
        if self.up:
            return F.conv_transpose2d(x, 4 * weight, stride=2, padding=self.padding, groups=channels)
        return F.conv2d(x, weight, stride=2, padding=self.padding, groups=channels)


class DDPMUNet(Network):
    """The network of Ho et al. 2020, with the options of its successors.

    The residual branches, the attention and the last convolution are initially zero.
    """

    def __init__(self, channels: int, spec: DDPMUNetSpec) -> None:
        super().__init__(spec)
        # Song et al. 2021b add the label to the input of the perceptron, the other papers to its output.
        self.scale, self.label_before_mlp = spec.scale, spec.sde
        width = 4 * spec.width
        if spec.embedding == "fourier":
            self.embedding = Fourier(2 * spec.width)
        else:
            self.embedding = Positional(spec.width, cos_first=spec.embedding == "cos_sin")
        positions = self.embedding.width
        self.time_mlp = nn.Sequential(nn.Linear(positions, width), nn.SiLU(), nn.Linear(width, width))
        inner = positions if self.label_before_mlp else width
        if spec.classes:
            self.class_embedding = ClassEmbedding(spec.classes, inner)
        if spec.augment:
            self.augment_proj = nn.Linear(spec.augment, positions, bias=False)
        if spec.vector:
            self.vector_embedding = VectorEmbedding(spec.vector, inner)

        self.in_conv = ExactConv2d(channels, spec.width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        now, skips = spec.width, []
        for stage, out in enumerate(spec.widths):
            # This skip connection starts at the first convolution, or at the downsampling before this stage.
            skips.append(now)
            blocks = nn.ModuleList()
            for _ in range(spec.blocks):
                blocks.append(AttentionBlock(now, out, spec, stage, attend=spec.attention[stage]))
                now = out
                skips.append(now)
            self.down.append(blocks)
        bottom = len(spec.widths) - 1
        ends = [AttentionBlock(now, now, spec, bottom, attend=attend) for attend in (True, False)]
        self.middle = nn.ModuleList(ends)
        for stage, out in reversed([*enumerate(spec.widths)]):
            blocks = nn.ModuleList()
            for k in range(spec.blocks + 1):
                attend = spec.attention[stage] and (not spec.sde or k == spec.blocks)
                blocks.append(AttentionBlock(now + skips.pop(), out, spec, stage, attend=attend))
                now = out
            self.up.append(blocks)
        self.downsample = nn.ModuleList(build_resampling(spec, out, up=False) for out in spec.widths[:-1])
        self.upsample = nn.ModuleList(build_resampling(spec, out, up=True) for out in spec.widths[:0:-1])
        self.pyramid = build_pyramid(channels, spec) if spec.pyramid else None
        self.out_norm = spec.norm(now)
        self.out_conv = ExactConv2d(now, spec.outputs * channels, 3, padding=1)
        self._initialise(spec)

    def _initialise(self, spec: DDPMUNetSpec) -> None:
        """Set the initial weights that are not torch's defaults."""
        if spec.sde:
            self.apply(glorot_init)
        for module in self.modules():
            if isinstance(module, Block):
                zero_init(module.conv2)
            elif isinstance(module, Attention):
                zero_init(module.proj)
                if spec.sde:
                    # As in Song et al., queries, keys and values each have a tenth of Glorot's variance.
                    bound = (0.1 * 3 / module.qkv.in_channels) ** 0.5
                    nn.init.uniform_(module.qkv.weight, -bound, bound)
        if spec.classes and spec.sde:
            # In Karras et al. a layer with Glorot weights is applied to a one-hot vector times sqrt(classes).
            # This has the same distribution as an embedding with these weights.
            bound = (6 * spec.classes / (spec.classes + self.embedding.width)) ** 0.5
            nn.init.uniform_(self.class_embedding.weight, -bound, bound)
        if spec.augment and not spec.sde:
            zero_init(self.augment_proj)  # as in the ADM of Karras et al.
        zero_init(self.out_conv)

    def embed(self, conditioning: Tensor, label: Tensor | None, augment: Tensor | None) -> Tensor:
        """Return the embedding (B, 4 * width); see `Network`."""
        embedded = self.add_augmentation(self.embedding(conditioning), augment)
        if self.label_before_mlp:
            return F.silu(self.time_mlp(self.add_label(embedded, label)))
        return F.silu(self.add_label(self.time_mlp(embedded), label))

    def denoise(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Return F (B, outputs * C, H, W) for padded images (B, C, H, W)."""
        image, x = x, self.in_conv(x)
        skips = [x]
        for stage, blocks in enumerate(self.down):
            if stage:
                x = self.downsample[stage - 1](x, embedded)
                if self.pyramid is not None:
                    image = x = (x + self.pyramid[stage - 1](image)) * self.scale
                skips.append(x)
            for block in blocks.children():
                x = block(x, embedded)
                skips.append(x)
        for block in self.middle:
            x = block(x, embedded)
        for stage, blocks in enumerate(self.up):
            if stage:
                x = self.upsample[stage - 1](x, embedded)
            for block in blocks.children():
                x = block(torch.cat([x, skips.pop()], dim=1), embedded)
        return self.out_conv(F.silu(self.out_norm(x)))


def build_resampling(spec: DDPMUNetSpec, width: int, *, up: bool) -> nn.Module:
    """Build the layer that halves or doubles the resolution of `width` channels; see `Resample`."""
    if spec.resample in ("box", "blur"):
        return spec.block(width, width, resize=Filter(up=up, blur=spec.resample == "blur"), project=spec.sde)
    return Upsample(width) if up else Downsample(width, same=spec.resample == "same")


def build_pyramid(channels: int, spec: DDPMUNetSpec) -> nn.ModuleList:
    """Build the layers that downsample the image input of each stage to that of the next (see `pyramid`)."""
    blur = spec.resample == "blur"
    # The convolution also pads the image for the filter, which therefore pads nothing itself.
    padding, pairs = 2 if blur else 1, pairwise((channels, *spec.widths[:-1]))
    convs = [nn.Conv2d(now, width, 3, padding=padding) for now, width in pairs]
    return nn.ModuleList(nn.Sequential(conv, Filter(blur=blur, pad=False)) for conv in convs)
