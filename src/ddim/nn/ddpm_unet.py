"""The U-Net of Ho et al. 2020 and what came from it: one network, the choices of the papers its options.

|               | DDPM       | improved DDPM   | DDPM++     | NCSN++     | ADM             |
|---------------|------------|-----------------|------------|------------|-----------------|
| `width`       | 128        | 128             | 128        | 128        | 192             |
| `multipliers` | 1, 2, 2, 2 | 1, 2, 2, 2      | 2, 2, 2    | 2, 2, 2    | 1, 2, 3, 4      |
| `blocks`      | 2          | 3               | 4          | 4          | 3               |
| attends at    | 16 pixels  | 16 and 8 pixels | 16 pixels  | 16 pixels  | 32, 16, 8       |
| `heads`       | 1          | 4               | 1          | 1          | of 64 channels  |
| `eps`         | 1e-6       | 1e-5            | 1e-6       | 1e-6       | 1e-5            |
| `embedding`   | sin_cos    | cos_sin         | sin_cos    | fourier    | cos_sin         |
| `scale_shift` | no         | yes             | no         | no         | yes             |
| `resample`    | same       | strided         | box        | blur       | box             |
| `sde`         | no         | no              | yes        | yes        | no              |
| `pyramid`     | no         | no              | no         | yes        | no              |

DDPM for images of 32 pixels is Ho et al. 2020, appendix B, and Song et al. 2021a; improved DDPM Nichol &
Dhariwal 2021; DDPM++ and NCSN++ Song et al. 2021b, section 4 and appendix H, as Karras et al. 2022 have them
(table 7); ADM Dhariwal & Nichol 2021, for images of 64 pixels.

What x_t goes through at full resolution, from the first convolution over the sums and projections to the last
one, is float32 under autocast; the branches that are added to it are rounded (see `Exact`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim.errors import UserError, check_positive
from ddim.nn.blocks import Dropout, Exact, attended, doubled, glorot, padded, within, zeroed
from ddim.nn.embedding import Fourier, Positional

Resample = Literal["same", "strided", "box", "blur"]
"""How sizes are joined: by a 3x3 convolution of stride 2, padded after ("same", as TensorFlow does) or on
both sides ("strided"), and one after copying each pixel to 2x2; or by a residual block that takes the mean of
2x2 and copies ("box"), or filters with 1, 3, 3, 1 ("blur")."""


@dataclass(frozen=True)
class DDPMUNetSpec:
    """`ddim.nn.ddpm_unet.DDPMUNet`, by its options; the defaults are DDPM's for images of 32 pixels.

    `multipliers` of `width` are the channels of each level, from full resolution down, each of half the
    height and width of the one before, with `blocks` blocks and `attention` or not. Attention has `heads`
    heads, or heads of `head` channels. Norms are over `groups` groups with `eps`. `scale_shift`: what is told
    scales and shifts the second norm of a block (Nichol & Dhariwal 2021, eq. 21); else it is added before.
    `sde`: as Song et al. 2021b, sums are divided by sqrt(2), blocks that resample project their input, only
    the last block of a level attends on the way up, and weights start as Glorot's. `pyramid`: the image, made
    smaller, enters at each level. The network is told one of `classes` classes and `augment` numbers, and
    gives `outputs` times the channels of x.
    """

    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention: tuple[bool, ...] = (False, True, False, False)
    heads: int = 1
    head: int | None = None
    groups: int = 32
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
    # Without an annotation this is not a field: a recipe cannot set it.
    takes_classes = True

    def __post_init__(self) -> None:
        check_positive("net", width=self.width, blocks=self.blocks, heads=self.heads, groups=self.groups)
        check_positive("net", eps=self.eps, outputs=self.outputs)
        if min(self.multipliers, default=0) < 1 or (self.head is not None and self.head < 1):
            raise UserError(
                "net.multipliers and net.head must be above 0, with a multiplier a level, "
                f"got {self.multipliers} and {self.head}"
            )
        if len(self.multipliers) != len(self.attention):
            raise UserError(
                "net.multipliers and net.attention must have one entry a level, "
                f"got {len(self.multipliers)} and {len(self.attention)}"
            )
        if self.width % self.groups or self.width % 2:
            raise UserError(
                f"net.width must be even and a multiple of net.groups, got {self.width} and {self.groups}"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"net.dropout must be at least 0 and less than 1, got {self.dropout}")
        if min(self.classes, self.augment) < 0:
            raise UserError(
                f"net.classes and net.augment must be at least 0, got {self.classes}, {self.augment}"
            )
        if self.pyramid and not self.filters:
            raise UserError(f"net.pyramid needs net.resample box or blur, got {self.resample}")
        for channels in self.attending:
            if channels % (self.head or self.heads):
                name, value = ("head", self.head) if self.head else ("heads", self.heads)
                raise UserError(f"net.{name} must divide the {channels} channels that attend, got {value}")

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels of each level."""
        return tuple(self.width * multiplier for multiplier in self.multipliers)

    @property
    def filters(self) -> bool:
        """Whether sizes are joined by blocks round a filter, not by convolutions."""
        return self.resample in ("box", "blur")

    @property
    def root(self) -> float:
        """What sums are multiplied by, so that their variance does not grow."""
        return 0.5**0.5 if self.sde else 1.0

    @property
    def attending(self) -> tuple[int, ...]:
        """The channels wherever the network attends: at some levels, and always at the bottom."""
        return (
            *(w for w, attend in zip(self.widths, self.attention, strict=True) if attend),
            self.widths[-1],
        )

    @property
    def multiple(self) -> int:
        """What heights and widths are padded to a multiple of."""
        return 2 ** (len(self.multipliers) - 1)

    def network(self, channels: int) -> nn.Module:
        """The network for images of so many channels, freshly initialised."""
        return DDPMUNet(channels, self)


class Block(nn.Module):
    """Group norm, swish, 3x3 convolution, twice, with what is told between them; added to its input.

    The input is projected by a 1x1 convolution where widths differ. `resize` is applied to the input and, in
    the branch, before the first convolution (Song et al. 2021b, after Brock et al. 2019). `exact`: the
    projection is float32. The sum is multiplied by `root`.
    """

    def __init__(  # noqa: PLR0913  (the options of one block)
        self,
        channels: int,
        out: int,
        told: int,
        *,
        groups: int,
        eps: float = 1e-5,
        dropout: float = 0.0,
        scale_shift: bool = False,
        root: float = 1.0,
        resize: nn.Module | None = None,
        project: bool = False,
        exact: bool = False,
    ) -> None:
        super().__init__()
        self.scale_shift, self.root = scale_shift, root
        self.resize = resize or nn.Identity()
        self.first_norm = nn.GroupNorm(groups, channels, eps)
        self.first = nn.Conv2d(channels, out, 3, padding=1)
        self.told = nn.Linear(told, 2 * out if scale_shift else out)
        self.second_norm = nn.GroupNorm(groups, out, eps)
        self.dropout = Dropout(dropout)
        self.second = nn.Conv2d(out, out, 3, padding=1)
        kind = Exact if exact else nn.Conv2d
        self.project = kind(channels, out, 1) if project or channels != out else nn.Identity()

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """x (B, channels, H, W), told (B, told) -> (B, out, H, W), or as `resize` makes H and W."""
        h = self.first(self.resize(F.silu(self.first_norm(x))))
        told = self.told(told)[:, :, None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = self.second_norm(h) * (1 + scale) + shift
        else:
            h = self.second_norm(h + told)
        h = self.second(self.dropout(F.silu(h)))
        return (self.project(self.resize(x)) + h) * self.root


class Attention(nn.Module):
    """Self-attention over the pixels, of so many heads, added to its input; the sum is scaled by `root`."""

    def __init__(self, channels: int, heads: int, groups: int, eps: float, root: float) -> None:
        super().__init__()
        self.heads, self.root = heads, root
        self.norm = nn.GroupNorm(groups, channels, eps)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        return (x + self.out(attended(self.qkv(self.norm(x)), self.heads))) * self.root


class Stage(nn.Module):
    """A block, and attention after it or not."""

    def __init__(self, block: Block, attend: Attention | None) -> None:
        super().__init__()
        self.block, self.attend = block, attend or nn.Identity()

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """x (B, channels, H, W), told (B, told) -> (B, out, H, W)."""
        return self.attend(self.block(x, told))


class Shrink(nn.Conv2d):
    """A 3x3 convolution of stride 2: zeros on both sides, or as TensorFlow pads ("same"), only after."""

    def __init__(self, channels: int, *, same: bool) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=0 if same else 1)
        self.same = same

    def forward(self, x: Tensor, told: Tensor) -> Tensor:  # type: ignore[override]
        """x (B, channels, H, W) of even H and W -> (B, channels, H / 2, W / 2)."""
        return super().forward(F.pad(x, (0, 1, 0, 1)) if self.same else x)


class Grow(nn.Conv2d):
    """Each pixel copied to 2x2, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:  # type: ignore[override]
        """x (B, channels, H, W) -> (B, channels, 2H, 2W)."""
        return super().forward(doubled(x, "nearest"))


class Filter(nn.Module):
    """Half or twice the size: by the mean of 2x2 and by copies, or `blur`red by 1, 3, 3, 1 both ways.

    The filter of Zhang 2019; `pad` is the zeros round the image when it is made smaller.
    """

    def __init__(self, *, up: bool = False, blur: bool = False, pad: bool = True) -> None:
        super().__init__()
        self.up = up
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0] if blur else [1.0, 1.0])
        self.padding = (len(taps) - 2) // 2 if pad else 0
        self.register_buffer("taps", torch.outer(taps, taps) / taps.sum() ** 2, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2), or twice each where `up`."""
        channels = x.shape[1]
        weight = self.taps.to(x.dtype).expand(channels, 1, -1, -1)
        if self.up:
            return F.conv_transpose2d(x, 4 * weight, stride=2, padding=self.padding, groups=channels)
        return F.conv2d(x, weight, stride=2, padding=self.padding, groups=channels)


class DDPMUNet(nn.Module):
    """(x, conditioning, label, augment) -> F; heights and widths of any size are padded and cropped.

    Blocks, their attention and the last convolution start as the zero function.
    """

    def __init__(self, channels: int, spec: DDPMUNetSpec) -> None:
        super().__init__()
        self.classes, self.augment, self.outputs = spec.classes, spec.augment, spec.outputs
        self.multiple, self.root = spec.multiple, spec.root
        widths, told = spec.widths, 4 * spec.width
        self.embedding = _embedding(spec)
        positions = self.embedding.width
        self.tell = nn.Sequential(nn.Linear(positions, told), nn.SiLU(), nn.Linear(told, told))
        # Of Song et al. 2021b's network where the level is told, of the others behind the layers after it.
        self.early = spec.sde
        self.label = nn.Embedding(spec.classes, positions if self.early else told) if spec.classes else None
        self.tell_augment = nn.Linear(spec.augment, positions, bias=False) if spec.augment else None

        norm = {"groups": spec.groups, "eps": spec.eps, "root": spec.root}
        block = partial(Block, told=told, dropout=spec.dropout, scale_shift=spec.scale_shift, **norm)

        def attention(width: int) -> Attention:
            return Attention(width, width // spec.head if spec.head else spec.heads, **norm)

        def stage(now: int, level: int, attend: bool) -> Stage:
            # The first level is full resolution, where the projection is on the way of x_t.
            made = block(now, widths[level], exact=level == 0)
            return Stage(made, attention(widths[level]) if attend else None)

        def resampled(width: int, up: bool) -> nn.Module:
            if spec.filters:
                made = Filter(up=up, blur=spec.resample == "blur")
                return block(width, width, resize=made, project=spec.sde)
            return Grow(width) if up else Shrink(width, same=spec.resample == "same")

        self.enter = Exact(channels, spec.width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        now, skips = spec.width, []
        for level, width in enumerate(widths):
            # The entrance, or what the level before became when it was made smaller.
            skips.append(now)
            stages = nn.ModuleList()
            for _ in range(spec.blocks):
                stages.append(stage(now, level, spec.attention[level]))
                now = width
                skips.append(now)
            self.down.append(stages)
        bottom = len(widths) - 1
        self.middle = nn.ModuleList([stage(now, bottom, attend=True), stage(now, bottom, attend=False)])
        for level in range(bottom, -1, -1):
            stages = nn.ModuleList()
            for k in range(spec.blocks + 1):
                attend = spec.attention[level] and (not spec.sde or k == spec.blocks)
                stages.append(stage(now + skips.pop(), level, attend))
                now = widths[level]
            self.up.append(stages)
        self.shrink = nn.ModuleList(resampled(width, up=False) for width in widths[:-1])
        self.grow = nn.ModuleList(resampled(width, up=True) for width in widths[:0:-1])
        self.pyramid = _pyramid(channels, spec) if spec.pyramid else None
        self.norm = nn.GroupNorm(spec.groups, now, spec.eps)
        self.leave = Exact(now, spec.outputs * channels, 3, padding=1)
        self._start(spec)

    def _start(self, spec: DDPMUNetSpec) -> None:
        """Initial weights, where they are not torch's."""
        if spec.sde:
            self.apply(glorot)
        for module in self.modules():
            if isinstance(module, Block):
                zeroed(module.second)
            elif isinstance(module, Attention):
                zeroed(module.out)
                if spec.sde:
                    # Queries, keys and values each with a tenth of Glorot's variance, as Song et al. do.
                    within(module.qkv.weight, (0.1 * 3 / module.qkv.in_channels) ** 0.5)
        if self.label is not None and spec.sde:
            # Karras et al. tell a class by a Glorot layer, its row of the identity times sqrt(classes).
            classes, positions = self.label.weight.shape
            within(self.label.weight, (6 * classes / (classes + positions)) ** 0.5)
        if self.tell_augment is not None and not spec.sde:
            zeroed(self.tell_augment)  # as Karras et al. have it in ADM
        zeroed(self.leave)

    def forward(
        self, x: Tensor, conditioning: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """x (B, C, H, W), conditioning (B,), label (B,), augment (B, augment) -> (B, outputs * C, H, W).

        No label, or -1 for an image, is the null class; no augment is that of images as they are, zeros.
        """
        with torch.autocast(x.device.type, enabled=False):
            position = self.embedding(conditioning)
            if self.tell_augment is not None and augment is not None:
                position = position + self.tell_augment(augment.float())
            named = None
            if self.label is not None and label is not None:
                named = self.label(label.clamp(min=0)) * (label >= 0)[:, None]
            if named is not None and self.early:
                position = position + named
            told = self.tell(position)
            if named is not None and not self.early:
                told = told + named
            told = F.silu(told)
        return padded(x, self.multiple, lambda image: self._padded(image, told))

    def _padded(self, x: Tensor, told: Tensor) -> Tensor:
        image, x = x, self.enter(x)
        skips = [x]
        for level, stages in enumerate(self.down):
            if level:
                x = self.shrink[level - 1](x, told)
                if self.pyramid is not None:
                    image = x = (x + self.pyramid[level - 1](image)) * self.root
                skips.append(x)
            for stage in stages.children():
                x = stage(x, told)
                skips.append(x)
        for stage in self.middle:
            x = stage(x, told)
        for level, stages in enumerate(self.up):
            if level:
                x = self.grow[level - 1](x, told)
            for stage in stages.children():
                x = stage(torch.cat([x, skips.pop()], dim=1), told)
        return self.leave(F.silu(self.norm(x)))


def _embedding(spec: DDPMUNetSpec) -> Positional | Fourier:
    if spec.embedding == "fourier":
        return Fourier(2 * spec.width)
    return Positional(spec.width, cos_first=spec.embedding == "cos_sin")


def _pyramid(channels: int, spec: DDPMUNetSpec) -> nn.ModuleList:
    """Of each level but the first: from the image that entered the one before to the one that enters it."""
    blur = spec.resample == "blur"
    made = nn.ModuleList()
    for now, width in pairwise((channels, *spec.widths[:-1])):
        # The zeros of both the convolution and the filter stand round the larger image.
        conv = nn.Conv2d(now, width, 3, padding=2 if blur else 1)
        made.append(nn.Sequential(conv, Filter(blur=blur, pad=False)))
    return made
