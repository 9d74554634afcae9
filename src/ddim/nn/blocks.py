"""Pieces that more than one network is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Layer = TypeVar("Layer", nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class Exact(nn.Conv2d):
    """A convolution in float32 even under autocast.

    For what the image depends on to first order: a network that predicts noise where the signal rate is 0.02
    has its errors multiplied by 50, so x_t must reach the output unrounded. Such networks are built with
    Exact on the whole path from x_t to the output; only the branches that are added to it are rounded.
    DDPM's network rounded throughout strays in pure noise by 8 % of its own error after ten minutes of
    training, with its exact path by 1.4 % (benchmarks/exact.py).
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """(B, C, H, W) -> (B, C', H', W') float32."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def zeroed(layer: Layer) -> Layer:
    """The layer, starting as the zero function."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def within(weight: Tensor, bound: float) -> None:
    """Start a weight evenly between -bound and bound."""
    nn.init.uniform_(weight, -bound, bound)


def glorot(layer: nn.Module) -> None:
    """A convolution or linear layer as Keras starts it: Glorot & Bengio 2010, eq. 16, and no bias."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


SIXTEEN = 2**16


class Dropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014) whose masks cost processors a fraction of torch's: `kept`.

    There its probability is rounded to a multiple of 2^-16, and what comes out is channels last.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """(B, C, H, W) -> the same."""
        of = round(self.p * SIXTEEN)
        if not self.training or not 0 < of < SIXTEEN or input.device.type != "cpu":
            return super().forward(input)
        # Of the global generator, as all dropout is: training sets it. A generator reads 32 bits of a seed.
        mask = kept(torch.randint(2**32, ()), list(input.shape), of)
        return torch.where(mask, input * (SIXTEEN / (SIXTEEN - of)), 0)


# The compiler does not see into it: what it makes of torch's own random masks takes a tenth of a training
# step of DDPM's network. As a function of its seed it may be done again on the way back, and two masks of
# one shape are not taken for the same.
@torch.library.custom_op("ddim::kept", mutates_args=(), device_types="cpu")
def kept(seed: Tensor, shape: list[int], of: int) -> Tensor:
    """A mask (B, C, H, W), channels last, False with probability `of` / 2^16: four of a draw of 64 bits."""
    b, c, h, w = shape
    numbers = b * c * h * w
    draws = torch.empty(-(-numbers // 4), dtype=torch.int64)
    draws.random_(-(2**63), None, generator=torch.Generator().manual_seed(int(seed)))
    flat = draws.view(torch.int16)[:numbers] >= of - SIXTEEN // 2
    return flat.view(b, h, w, c).permute(0, 3, 1, 2)


kept.register_fake(
    lambda seed, shape, of: seed.new_empty(shape, dtype=torch.bool).to(memory_format=torch.channels_last)
)

PLAIN = 512
"""Pixels up to which attention on a processor writes all its scores down."""


def attended(qkv: Tensor, heads: int) -> Tensor:
    """Queries, keys and values (B, 3C, H, W) -> (B, C, H, W), all pixels mixed in each of the heads.

    Scaled dot-product attention (Vaswani et al. 2017, eq. 1); a head has C / heads channels.
    """
    b, _, h, w = qkv.shape
    pixels = qkv.flatten(2).transpose(1, 2).reshape(b, h * w, 3, heads, -1)
    q, k, v = pixels.permute(2, 0, 3, 1, 4)
    if qkv.device.type == "cpu" and qkv.dtype == torch.bfloat16 and h * w <= PLAIN:
        # torch's own kernel multiplies in float32 here, and takes three times as long. Scores are rounded to
        # 8 bits instead; in the errors of trained networks no level of noise shows it in four digits.
        mixed = (q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)).softmax(-1) @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v)  # (B, heads, HW, C / heads)
    return mixed.transpose(1, 2).reshape(b, h * w, -1).transpose(1, 2).reshape(b, -1, h, w)


def padded(x: Tensor, multiple: int, net: Callable[[Tensor], Tensor]) -> Tensor:
    """net(x) for x (B, C, H, W) of any height and width, by a net that needs multiples of `multiple`.

    Zeros are added at the bottom and right, as the convolutions add them, and cropped from the output.
    """
    height, width = x.shape[-2:]
    extra = (0, -width % multiple, 0, -height % multiple)
    return net(F.pad(x, extra) if any(extra) else x)[..., :height, :width]


def doubled(x: Tensor, mode: str = "bilinear") -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W), "bilinear" or "nearest", each pixel copied to 2x2."""
    # The compiler for processors scatters these gradients pixel by pixel: a fifth of a training step of the
    # seed's network. An operation that it cannot see into keeps torch's own kernels.
    if x.device.type == "cpu" and torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return opaque_doubled(x, mode)
    return F.interpolate(x, scale_factor=2, mode=mode)


@torch.library.custom_op("ddim::doubled", mutates_args=(), device_types="cpu")
def opaque_doubled(x: Tensor, mode: str) -> Tensor:
    """`doubled`, opaque to the compiler."""
    return F.interpolate(x, scale_factor=2, mode=mode)


@torch.library.custom_op("ddim::doubled_backward", mutates_args=(), device_types="cpu")
def _doubled_backward(gradient: Tensor, mode: str) -> Tensor:
    b, c, h, w = gradient.shape
    size, small = (h, w), (b, c, h // 2, w // 2)
    if mode == "nearest":
        return torch.ops.aten.upsample_nearest2d_backward(gradient, size, small, 2.0, 2.0)
    return torch.ops.aten.upsample_bilinear2d_backward(gradient, size, small, False, 2.0, 2.0)


def _keep_mode(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:  # noqa: ANN401  (torch's own)
    ctx.mode = inputs[1]


opaque_doubled.register_fake(lambda x, mode: F.interpolate(x, scale_factor=2, mode=mode))
_doubled_backward.register_fake(
    lambda gradient, _: torch.empty_like(F.interpolate(gradient, scale_factor=0.5, mode="nearest"))
)
opaque_doubled.register_autograd(
    lambda ctx, gradient: (_doubled_backward(gradient, ctx.mode), None), setup_context=_keep_mode
)
