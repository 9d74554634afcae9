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

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim.errors import UserError, check_part_values, check_positive
from ddim.nn.blocks import Attention, ExactConv2d, apply_padded, glorot_init, uniform_init, zero_init
from ddim.nn.ddpm_blocks import AttentionBlock, Block, Downsample, Filter, Upsample
from ddim.nn.embedding import Fourier, Positional, VectorEmbedding, check_labels

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
class DDPMUNetSpec:
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
    # Without annotations these are not fields: a recipe cannot set them.
    takes_classes, takes_vector = True, True

    def __post_init__(self) -> None:
        check_part_values("net", self)
        check_positive("net", width=self.width, blocks=self.blocks, heads=self.heads, groups=self.groups)
        check_positive("net", eps=self.eps, outputs=self.outputs, group_channels=self.group_channels or 1)
        if min(self.multipliers, default=0) < 1 or (self.head is not None and self.head < 1):
            raise UserError(
                "net.multipliers and net.head must be above 0, with one multiplier per stage, "
                f"got {self.multipliers} and {self.head}"
            )
        if len(self.multipliers) != len(self.attention):
            raise UserError(
                "net.multipliers and net.attention must have one entry per stage, "
                f"got {len(self.multipliers)} and {len(self.attention)}"
            )
        if self.width % 2 or (self.group_channels is None and self.width % self.groups):
            raise UserError(
                f"net.width must be even and a multiple of net.groups, got {self.width} and {self.groups}"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"net.dropout must be at least 0 and less than 1, got {self.dropout}")
        check_labels(self.classes, self.augment, self.vector)
        if self.pyramid and not self.resizes_in_blocks:
            raise UserError(f'net.pyramid needs net.resample "box" or "blur", got "{self.resample}"')
        attended = [w for w, attend in zip(self.widths, self.attention, strict=True) if attend]
        # The middle of the network always has attention, so its channels are checked too.
        for channels in (*attended, self.widths[-1]):
            if channels % (self.head or self.heads):
                name, value = ("head", self.head) if self.head else ("heads", self.heads)
                raise UserError(
                    f"net.{name} must divide the {channels} channels that have attention, got {value}"
                )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.width * multiplier for multiplier in self.multipliers)

    @property
    def resizes_in_blocks(self) -> bool:
        """Whether residual blocks with a filter change the resolution, instead of convolutions."""
        return self.resample in ("box", "blur")

    @property
    def scale(self) -> float:
        """Factor of each residual sum; with `sde` it is sqrt(1/2), which keeps the variance."""
        return 0.5**0.5 if self.sde else 1.0

    @property
    def multiple(self) -> int:
        """Heights and widths are padded to a multiple of this number of pixels."""
        return 2 ** (len(self.multipliers) - 1)

    def norm(self, channels: int) -> nn.GroupNorm:
        """Build a group norm with `groups` groups, or fewer if `group_channels` requires it."""
        groups = self.groups
        if self.group_channels is not None:
            most = max(1, min(groups, channels // self.group_channels))
            groups = next(count for count in range(most, 0, -1) if channels % count == 0)
        return nn.GroupNorm(groups, channels, self.eps)

    def network(self, channels: int) -> nn.Module:
        """Build the network for images with this number of channels."""
        return DDPMUNet(channels, self)


class DDPMUNet(nn.Module):
    """The network (x, conditioning, label, augment) -> F, for images of any height and width.

    Images are padded, and the output is cropped. The residual branches, the attention and the last
    convolution are initially zero.
    """

    def __init__(self, channels: int, spec: DDPMUNetSpec) -> None:
        super().__init__()
        self.classes, self.augment, self.outputs = spec.classes, spec.augment, spec.outputs
        self.multiple, self.scale, self.vector = spec.multiple, spec.scale, spec.vector
        widths, width = spec.widths, 4 * spec.width
        self.embedding = _embedding(spec)
        positions = self.embedding.width
        self.time_mlp = nn.Sequential(nn.Linear(positions, width), nn.SiLU(), nn.Linear(width, width))
        # Song et al. 2021b add the class vector to the input of the MLP, the other papers to its output.
        self.class_before_mlp = spec.sde
        self.class_embedding = (
            nn.Embedding(spec.classes, positions if self.class_before_mlp else width)
            if spec.classes
            else None
        )
        self.augment_proj = nn.Linear(spec.augment, positions, bias=False) if spec.augment else None
        inner = positions if self.class_before_mlp else width
        self.vector_embedding = VectorEmbedding(spec.vector, inner) if spec.vector else None

        self.in_conv = ExactConv2d(channels, spec.width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        now, skips = spec.width, []
        for stage, out in enumerate(widths):
            # This skip connection starts at the first convolution, or at the downsampling before this stage.
            skips.append(now)
            blocks = nn.ModuleList()
            for _ in range(spec.blocks):
                blocks.append(_attention_block(spec, now, out, spec.attention[stage], exact=stage == 0))
                now = out
                skips.append(now)
            self.down.append(blocks)
        bottom = len(widths) - 1
        self.middle = nn.ModuleList(
            _attention_block(spec, now, now, attend, exact=bottom == 0) for attend in (True, False)
        )
        for stage in range(bottom, -1, -1):
            blocks = nn.ModuleList()
            for k in range(spec.blocks + 1):
                attend = spec.attention[stage] and (not spec.sde or k == spec.blocks)
                blocks.append(
                    _attention_block(spec, now + skips.pop(), widths[stage], attend, exact=stage == 0)
                )
                now = widths[stage]
            self.up.append(blocks)
        self.downsample = nn.ModuleList(_resampling(spec, width, up=False) for width in widths[:-1])
        self.upsample = nn.ModuleList(_resampling(spec, width, up=True) for width in widths[:0:-1])
        self.pyramid = _pyramid(channels, spec) if spec.pyramid else None
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
                    uniform_init(module.qkv.weight, (0.1 * 3 / module.qkv.in_channels) ** 0.5)
        if self.class_embedding is not None and spec.sde:
            # In Karras et al. a layer with Glorot weights is applied to a one-hot vector times sqrt(classes).
            # This has the same distribution as an embedding with these weights.
            classes, positions = self.class_embedding.weight.shape
            uniform_init(self.class_embedding.weight, (6 * classes / (classes + positions)) ** 0.5)
        if self.augment_proj is not None and not spec.sde:
            zero_init(self.augment_proj)  # as in the ADM of Karras et al.
        zero_init(self.out_conv)

    def forward(
        self, x: Tensor, conditioning: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """Apply the network.

        Args:
            x: (B, C, H, W).
            conditioning: (B,).
            label: class indices (B,), -1 for no class; or vectors (B, d), NaN for no vector; or None.
            augment: augmentation labels (B, augment); zeros or None mean no augmentation.

        Returns:
            F, (B, outputs * C, H, W).
        """
        with torch.autocast(x.device.type, enabled=False):
            embedded = self.embedding(conditioning)
            if self.augment_proj is not None and augment is not None:
                embedded = embedded + self.augment_proj(augment.float())
            named = None
            if self.class_embedding is not None and label is not None:
                named = self.class_embedding(label.clamp(min=0)) * (label >= 0)[:, None]
            if self.vector_embedding is not None and label is not None:
                named = self.vector_embedding(label)
            if named is not None and self.class_before_mlp:
                embedded = embedded + named
            embedded = self.time_mlp(embedded)
            if named is not None and not self.class_before_mlp:
                embedded = embedded + named
            embedded = F.silu(embedded)
        return apply_padded(lambda image: self._padded(image, embedded), x, self.multiple)

    def _padded(self, x: Tensor, embedded: Tensor) -> Tensor:
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


def _embedding(spec: DDPMUNetSpec) -> Positional | Fourier:
    if spec.embedding == "fourier":
        return Fourier(2 * spec.width)
    return Positional(spec.width, cos_first=spec.embedding == "cos_sin")


def _block(spec: DDPMUNetSpec, channels: int, out: int, **options: Any) -> Block:  # noqa: ANN401
    return Block(
        channels,
        out,
        4 * spec.width,
        norm=spec.norm,
        dropout=spec.dropout,
        scale_shift=spec.scale_shift,
        scale=spec.scale,
        **options,
    )


def _attention_block(spec: DDPMUNetSpec, now: int, out: int, attend: bool, *, exact: bool) -> AttentionBlock:
    """Build a residual block, followed by self-attention if `attend` is set.

    Set `exact` at full resolution: there the projection must be float32, see `ExactConv2d`.
    """
    block = _block(spec, now, out, exact=exact)
    heads = out // spec.head if spec.head else spec.heads
    return AttentionBlock(block, Attention(spec.norm(out), out, heads, scale=spec.scale) if attend else None)


def _resampling(spec: DDPMUNetSpec, width: int, *, up: bool) -> nn.Module:
    if spec.resizes_in_blocks:
        resize = Filter(up=up, blur=spec.resample == "blur")
        return _block(spec, width, width, resize=resize, project=spec.sde)
    return Upsample(width) if up else Downsample(width, same=spec.resample == "same")


def _pyramid(channels: int, spec: DDPMUNetSpec) -> nn.ModuleList:
    """Return the layers that downsample the image input of each stage to that of the next (see `pyramid`)."""
    blur = spec.resample == "blur"
    layers = nn.ModuleList()
    for now, width in pairwise((channels, *spec.widths[:-1])):
        # The convolution also pads the image for the filter, which therefore pads nothing itself.
        conv = nn.Conv2d(now, width, 3, padding=2 if blur else 1)
        layers.append(nn.Sequential(conv, Filter(blur=blur, pad=False)))
    return layers
