"""A U-Net that spends its arithmetic where a processor is fast: in 3x3 convolutions, and little beside them.

On processors with bf16 units a 3x3 convolution costs little more than the norms and activations round it, so
what counts is how often an image goes through memory. Hence a block has one norm, over the channels of each
pixel (no second pass for statistics); skips are added and not concatenated; sizes are joined by 2x2
convolutions of stride 2; full resolution is thin.

No norm or activation stands on the way from the input to the output at full resolution: entrance, residual
stream and last convolution are linear and float32, so that single pixels pass unharmed. Each channel of that
stream is scaled, at its end, by a gain that depends on the conditioning.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim.errors import UserError, check_positive
from ddim.nn.blocks import Exact, attended, padded, zeroed
from ddim.nn.embedding import Sinusoidal


@dataclass(frozen=True)
class UNetSpec:
    """`UNet`, by its options; the defaults are those of recipe `fast`.

    `widths` are the channels of each level, from full resolution down, each of half the height and width of
    the one before; `down` and `up` its blocks on the way down and up; `attention` whether it attends, on the
    way up. The embedding of the conditioning has `told` channels in each block. The network is told
    `augment` numbers and one of `classes` classes.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256)
    down: tuple[int, ...] = (0, 1, 1, 2)
    up: tuple[int, ...] = (1, 1, 2, 2)
    attention: tuple[bool, ...] = (False, False, False, True)
    told: int = 256
    augment: int = 0
    classes: int = 0
    # Without annotations these are not fields: a recipe cannot set them.
    outputs, takes_classes = 1, True

    def __post_init__(self) -> None:
        check_positive("net", told=self.told)
        if min(self.classes, self.augment) < 0:
            raise UserError(
                f"net.classes and net.augment must be at least 0, got {self.classes}, {self.augment}"
            )
        # The norm of one channel is a constant.
        if min(self.widths, default=0) < 2:
            raise UserError(f"net.widths must name at least one level, each of at least 2, got {self.widths}")
        counts = [len(self.widths), len(self.down), len(self.up), len(self.attention)]
        if len(set(counts)) > 1:
            raise UserError(
                "net.widths, net.down, net.up and net.attention must have one entry a level, "
                f"got {counts[0]}, {counts[1]}, {counts[2]} and {counts[3]}"
            )
        if min(self.down + self.up) < 0:
            raise UserError(f"net.down and net.up must be at least 0, got {self.down} and {self.up}")

    @property
    def multiple(self) -> int:
        """What heights and widths are padded to a multiple of."""
        return 2 ** (len(self.widths) - 1)

    def network(self, channels: int) -> nn.Module:
        """The network for images of so many channels, freshly initialised."""
        return UNet(channels, self)


class ChannelNorm(nn.LayerNorm):
    """Layer norm (Ba et al. 2016) over the channels of each pixel."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """(B, C, H, W) -> the same."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class Attention(nn.Module):
    """Multi-head self-attention over the pixels (Vaswani et al. 2017), added to its input."""

    def __init__(self, channels: int, head: int = 64) -> None:
        super().__init__()
        most = max(1, channels // head)
        self.heads = next(heads for heads in range(most, 0, -1) if channels % heads == 0)
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        return x + self.out(attended(self.qkv(self.norm(x)), self.heads))


class Block(nn.Module):
    """Two 3x3 convolutions, scaled and shifted between them by what is told; starts as the identity.

    Scale and shift are those of Dhariwal & Nichol 2021, section 3, without their second norm.
    """

    def __init__(self, channels: int, told: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.told = nn.Linear(told, 2 * channels)
        self.second = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """x (B, channels, H, W), told (B, told) -> (B, channels, H, W)."""
        scale, shift = self.told(told)[:, :, None, None].chunk(2, dim=1)
        h = self.first(F.silu(self.norm(x))) * (1 + scale) + shift
        return x + self.second(F.silu(h))


class Stage(nn.Module):
    """Blocks of one size, and attention after them or not."""

    def __init__(self, channels: int, depth: int, told: int, *, attend: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(channels, told) for _ in range(depth))
        self.attend = Attention(channels) if attend else nn.Identity()

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """x (B, channels, H, W), told (B, told) -> (B, channels, H, W)."""
        for block in self.blocks:
            x = block(x, told)
        return self.attend(x)


class UNet(nn.Module):
    """(x, conditioning) -> F of the same shape as x; heights and widths of any size are padded and cropped.

    Labels of augmentation are added to the embedding (Karras et al. 2022, appendix F.2), and so is a vector
    of the class: that of each about as long as the embedding from the start. A short one grows so slowly that
    classes, or what stands on its head, are told apart late.
    """

    def __init__(self, channels: int, spec: UNetSpec) -> None:
        super().__init__()
        self.multiple = spec.multiple
        self.classes, self.augment, self.outputs = spec.classes, spec.augment, spec.outputs
        widths, told = spec.widths, spec.told
        # The conditioning changes slowly with time: a hundred turns over its range resolve it.
        self.embedding = Sinusoidal(64, max_frequency=100.0)
        self.tell = nn.Sequential(nn.Linear(64, told), nn.SiLU(), nn.Linear(told, told), nn.SiLU())
        self.enter = Exact(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            Stage(width, depth, told) for width, depth in zip(widths, spec.down, strict=True)
        )
        self.up = nn.ModuleList(
            Stage(width, depth, told, attend=attend)
            for width, depth, attend in zip(widths, spec.up, spec.attention, strict=True)
        )
        self.shrink = nn.ModuleList(nn.Conv2d(wide, deep, 2, stride=2) for wide, deep in pairwise(widths))
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(deep, wide, 2, stride=2) for wide, deep in pairwise(widths)
        )
        self.gain = zeroed(nn.Linear(told, widths[0]))
        self.leave = zeroed(Exact(widths[0], channels, 3, padding=1))
        if spec.augment:
            # Without a bias: labels that are zero say nothing.
            self.tell_augment = nn.Linear(spec.augment, 64, bias=False)
            nn.init.normal_(self.tell_augment.weight)
        if spec.classes:
            self.tell_class = nn.Embedding(spec.classes, 64)

    def forward(
        self,
        x: Tensor,
        conditioning: Tensor,
        label: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """x (B, C, H, W), conditioning (B,), label (B,) or None, augment (B, n) or None -> (B, C, H, W).

        No label, or -1 for an image, is the null class.
        """
        # As exact as the stream that the gain scales.
        with torch.autocast(x.device.type, enabled=False):
            embedded = self.embedding(conditioning)
            if augment is not None:
                embedded = embedded + self.tell_augment(augment.float())
            if self.classes and label is not None:
                embedded = embedded + self.tell_class(label.clamp(min=0)) * (label >= 0)[:, None]
            told = self.tell(embedded)
            gain = 1 + self.gain(told)[:, :, None, None]
        return padded(x, self.multiple, lambda image: self._padded(image, told, gain))

    def _padded(self, x: Tensor, told: Tensor, gain: Tensor) -> Tensor:
        x = self.down[0](self.enter(x), told)
        skips = [x]
        for shrink, stage in zip(self.shrink, self.down[1:], strict=True):
            x = stage(shrink(x), told)
            skips.append(x)
        x = self.up[-1](skips.pop(), told)
        for grow, stage in zip(reversed(self.grow), reversed(self.up[:-1]), strict=True):
            x = stage(skips.pop() + grow(x), told)
        return self.leave(x * gain)
