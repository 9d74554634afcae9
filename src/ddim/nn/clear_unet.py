"""The U-Net of clear-diffusion-keras (Béres 2022): residual blocks told of the noise, attention, patches.

No member of the family of `ddpm_unet`, though it shares its block: sizes are joined by means and by bilinear
interpolation, without weights; the last level is the bottom, and has no way up; heads of attention are each
as wide as the level; no norm stands before the last convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim.errors import UserError, check_positive
from ddim.nn.blocks import Exact, attended, doubled, glorot, padded, within, zeroed
from ddim.nn.ddpm_unet import Block
from ddim.nn.embedding import Sinusoidal

_EPS = 1e-3
"""Of group norms in Keras."""


@dataclass(frozen=True)
class ClearUNetSpec:
    """`ddim.nn.clear_unet.ClearUNet`, by its options; the defaults are the original's.

    `widths` are the channels of each level, the last one the bottom, each of `depth` blocks (twice so many
    where it has a way up), and `attention` or not, of `heads` heads. The image enters in squares of `patch`
    pixels, as `enter` channels. Norms are over `groups` groups. The small one has widths 32, 64, 96, 128 and
    no attention.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    attention: tuple[bool, ...] = (False, False, True, True)
    depth: int = 2
    enter: int = 64
    patch: int = 1
    heads: int = 4
    groups: int = 8
    embedding: int = 64
    max_frequency: float = 1000.0
    # Without annotations these are not fields: a recipe cannot set them.
    classes, augment, outputs, takes_classes = 0, 0, 1, False

    def __post_init__(self) -> None:
        check_positive("net", depth=self.depth, enter=self.enter, patch=self.patch, heads=self.heads)
        check_positive("net", groups=self.groups, embedding=self.embedding, max_frequency=self.max_frequency)
        if len(self.widths) != len(self.attention) or min(self.widths, default=0) < 1:
            raise UserError(
                "net.widths and net.attention must have one entry a level, widths above 0, "
                f"got {self.widths} and {self.attention}"
            )
        if any(width % self.groups for width in (self.enter, *self.widths)):
            raise UserError(
                f"net.enter and net.widths must be multiples of net.groups {self.groups}, "
                f"got {self.enter} and {self.widths}"
            )
        if self.embedding % 2:
            raise UserError(f"net.embedding must be even, a sine and a cosine each, got {self.embedding}")

    @property
    def multiple(self) -> int:
        """What heights and widths are padded to a multiple of."""
        return self.patch * 2 ** (len(self.widths) - 1)

    def network(self, channels: int) -> nn.Module:
        """The network for images of so many channels, freshly initialised."""
        return ClearUNet(channels, self)


class Attending(nn.Module):
    """Self-attention over the pixels, every head as wide as the level, added to its input."""

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels, _EPS, affine=False)
        self.qkv = nn.Conv2d(channels, 3 * heads * channels, 1)
        self.out = nn.Conv2d(heads * channels, channels, 1)

    def start(self) -> None:
        """Initial weights, within the bounds of Glorot as Keras counts them here.

        Its kernels have an axis of heads, (C, heads, C) and (heads, C, C), and it takes all axes but the last
        two for places of a convolution.
        """
        heads, channels = self.heads, self.norm.num_channels
        for layer, fans in ((self.qkv, channels * (heads + channels)), (self.out, heads * 2 * channels)):
            within(layer.weight, (6 / fans) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        return x + self.out(attended(self.qkv(self.norm(x)), self.heads))


class Level(nn.Module):
    """Blocks of one size, each with attention after it or not; `skips` are the channels that join each."""

    def __init__(self, now: int, level: int, spec: ClearUNetSpec, skips: int = 0) -> None:
        super().__init__()
        width, groups = spec.widths[level], spec.groups
        self.blocks, self.attend = nn.ModuleList(), nn.ModuleList()
        for k in range(spec.depth):
            channels = (width if k else now) + skips
            # The first level is full resolution, where the projection is on the way of x_t.
            block = Block(channels, width, spec.embedding, groups=groups, eps=_EPS, exact=level == 0)
            self.blocks.append(block)
            attends = spec.attention[level]
            self.attend.append(Attending(width, spec.heads, groups) if attends else nn.Identity())

    def forward(self, x: Tensor, told: Tensor, skips: list[Tensor]) -> list[Tensor]:
        """x (B, now, H, W), told (B, embedding), skips, the last first -> what each block made of them."""
        made = []
        for block, attend in zip(self.blocks, self.attend, strict=True):
            x = attend(block(torch.cat([x, skips.pop()], dim=1) if skips else x, told))
            made.append(x)
        return made


class ClearUNet(nn.Module):
    """(x, conditioning) -> F of the same shape as x; heights and widths of any size are padded and cropped.

    Starts as the zero function, and as Keras starts it.
    """

    classes, augment, outputs = 0, 0, 1

    def __init__(self, channels: int, spec: ClearUNetSpec) -> None:
        super().__init__()
        self.multiple, last = spec.multiple, len(spec.widths) - 1
        self.embedding = Sinusoidal(spec.embedding, spec.max_frequency)
        e = spec.embedding
        self.tell = nn.Sequential(nn.Linear(e, e), nn.SiLU(), nn.Linear(e, e), nn.SiLU())
        self.enter = Exact(channels, spec.enter, spec.patch, stride=spec.patch)
        before = (spec.enter, *spec.widths)
        self.down = nn.ModuleList(Level(before[k], k, spec) for k in range(last))
        self.middle = Level(before[last], last, spec)
        self.up = nn.ModuleList(
            Level(spec.widths[k + 1], k, spec, skips=spec.widths[k]) for k in reversed(range(last))
        )
        self.leave = nn.ConvTranspose2d(spec.widths[0], channels, spec.patch, stride=spec.patch)
        self.apply(glorot)
        for module in self.modules():
            if isinstance(module, Attending):
                module.start()
        zeroed(self.leave)

    def forward(self, x: Tensor, conditioning: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), conditioning (B,) -> (B, C, H, W)."""
        with torch.autocast(x.device.type, enabled=False):
            told = self.tell(self.embedding(conditioning))
        return padded(x, self.multiple, lambda image: self._padded(image, told))

    def _padded(self, x: Tensor, told: Tensor) -> Tensor:
        x, skips = self.enter(x), []
        for level in self.down:
            made = level(x, told, [])
            skips.append(made)
            x = F.avg_pool2d(made[-1], 2)
        x = self.middle(x, told, [])[-1]
        for level in self.up:
            x = level(doubled(x), told, skips.pop())[-1]
        # See `Exact`.
        with torch.autocast(x.device.type, enabled=False):
            return self.leave(x.float())
