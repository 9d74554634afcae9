"""Layers that several networks share."""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim.nn.recompute import Recomputable

Layer = TypeVar("Layer", nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class ExactConv2d(nn.Conv2d):
    """A convolution that is computed in float32 even under autocast.

    All convolutions on the path of x_t at full resolution are float32; only the branches that are added to
    this path are bf16. If a network predicts noise, an error of its output is 1 / 0.02 = 50 times as large in
    the predicted image at a signal rate of 0.02. Therefore x_t must reach the output without rounding.

    In DDPM's network after ten minutes of training, at t = 1, bf16 in all layers changes the output by 8 % of
    the network's own error. With the float32 path, the change is 1.4 % (benchmarks/exact.py).
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """Convolve (B, C, H, W); the result is float32."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def zero_init(layer: Layer) -> Layer:
    """Set the weights and bias of a layer to zero and return the layer."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def glorot_init(layer: nn.Module) -> None:
    """Initialise a convolution or linear layer like Keras: Glorot & Bengio 2010, eq. 16, and bias 0."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


LEVELS = 2**16
"""The probability of dropout is a multiple of 1 / LEVELS."""


class Dropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014) whose mask for an image does not depend on the rest of the batch.

    So the masks do not change if a batch is divided into parts, for gradient accumulation or among the
    processes of a training. The probability is rounded to a multiple of 2^-16.

    Attributes:
        rows: index of each image in the batch of the step, (B,) int64; training sets it. None means 0 to
            B - 1.
    """

    rows: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """Apply dropout to (B, C, H, W); the shape stays the same."""
        dropped = round(self.p * LEVELS)
        if not self.training or not 0 < dropped < LEVELS:
            return super().forward(input)
        rows = torch.arange(len(input), device=input.device) if self.rows is None else self.rows
        # Like torch's dropout, this draws from the global generator, which training seeds at each step: that
        # of the CPU or of CUDA. A seed of 32 bits is enough, because a CPU generator uses only 32 bits of it.
        source = "cpu" if input.device.type == "mps" else input.device
        seed = torch.randint(2**32, (), device=source).to(input.device)
        draw = draw_mask if input.device.type == "cpu" else hash_mask
        mask = draw(seed, rows.to(input.device), list(input.shape), dropped)
        return torch.where(mask, input * (LEVELS / (LEVELS - dropped)), 0)


# This is a custom operation, because torch.compile does not change such operations. Its own code for the
# masks would take a tenth of the time of a training step of DDPM's network. The seed is an argument, so that
# the backward pass can recompute a mask, and torch.compile does not merge two masks of the same shape.
@torch.library.custom_op("ddim::draw_mask", mutates_args=(), device_types="cpu")
def draw_mask(seed: Tensor, rows: Tensor, shape: list[int], dropped: int) -> Tensor:
    """Return a mask (B, C, H, W), channels_last, whose entries are False with probability `dropped` / 2^16.

    The mask of an image depends only on `seed` and its entry in `rows`. Each random number of 64 bits gives
    four entries of the mask.

    Args:
        seed: scalar, int64.
        rows: index of each image in the batch, (B,) int64.
        shape: B, C, H, W.
        dropped: the probability of False, multiplied by 2^16.
    """
    b, c, h, w = shape
    numbers = c * h * w
    draws = torch.empty(b, -(-numbers // 4), dtype=torch.int64, device="cpu")
    for draw, row in zip(draws, rows.tolist(), strict=True):
        draw.random_(-(2**63), None, generator=torch.Generator().manual_seed((int(seed) + row) % 2**32))
    flat = draws.view(torch.int16)[:, :numbers] >= dropped - LEVELS // 2
    return flat.view(b, h, w, c).permute(0, 3, 1, 2)


@draw_mask.register_fake
def _imitate_mask(seed: Tensor, rows: Tensor, shape: list[int], dropped: int) -> Tensor:
    return seed.new_empty(shape, dtype=torch.bool).to(memory_format=torch.channels_last)


def hash_mask(seed: Tensor, rows: Tensor, shape: list[int], dropped: int) -> Tensor:
    """Return a mask like `draw_mask`, by operations that run in parallel on an accelerator.

    The entries differ from those of `draw_mask`. Each entry is a hash of the seed, the index of the image in
    the batch, and the entry's position in the image. The hash is the 32-bit finaliser of MurmurHash3
    (Appleby 2016), applied twice.
    """
    b, c, h, w = shape
    place = torch.arange(c * h * w, dtype=torch.int32, device=rows.device)
    image = _mix(rows.to(torch.int32) * -1640531535 + seed.to(torch.int32))
    numbers = _mix(_mix(place[None] + image[:, None]) + image[:, None])
    flat = (numbers & (LEVELS - 1)) >= dropped
    return flat.view(b, h, w, c).permute(0, 3, 1, 2)


def _mix(x: Tensor) -> Tensor:
    """Return the hashes of int32 numbers by the finaliser of MurmurHash3; products overflow, as intended."""
    x = (x ^ (x >> 16 & 0xFFFF)) * -2048144789
    x = (x ^ (x >> 13 & 0x7FFFF)) * -1028477387
    return x ^ (x >> 16 & 0xFFFF)


EXPLICIT_PIXELS = 512
"""Largest number of tokens for which attention in bf16 on a CPU computes the full matrix of scores.

In a U-Net each pixel is a token.
"""


def self_attention(qkv: Tensor, heads: int) -> Tensor:
    """Apply scaled dot-product attention over N tokens (Vaswani et al. 2017, eq. 1).

    Args:
        qkv: queries, keys and values (B, N, 3C).
        heads: number of heads, each of C / heads channels.

    Returns:
        (B, N, C).
    """
    b, n, _ = qkv.shape
    q, k, v = qkv.reshape(b, n, 3, heads, -1).permute(2, 0, 3, 1, 4)
    if qkv.device.type == "cpu" and qkv.dtype == torch.bfloat16 and n <= EXPLICIT_PIXELS:
        # torch's kernel multiplies in float32 here, which takes three times as long as this code. This code
        # rounds the scores to bf16, which does not change the first four digits of trained networks' errors.
        mixed = (q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)).softmax(-1) @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, C / heads)
    return mixed.transpose(1, 2).reshape(b, n, -1)


class Attention(Recomputable):
    """Self-attention over the pixels, added to its input (Vaswani et al. 2017).

    Args:
        norm: the norm that is applied first.
        channels: channels of the input and the output.
        heads: number of heads.
        inner: channels of the queries, of the keys and of the values; by default `channels`.
        scale: factor of the residual sum.
    """

    def __init__(
        self, norm: nn.Module, channels: int, heads: int, *, inner: int | None = None, scale: float = 1.0
    ) -> None:
        super().__init__()
        inner = inner or channels
        self.heads, self.scale, self.norm = heads, scale, norm
        self.qkv = nn.Conv2d(channels, 3 * inner, 1)
        self.proj = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply self-attention to (B, channels, H, W); the shape stays the same."""
        qkv = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)
        mixed = self_attention(qkv, self.heads).transpose(1, 2).unflatten(2, x.shape[2:])
        x = x + self.proj(mixed)
        return x if self.scale == 1 else x * self.scale


def upsample_2x(x: Tensor, mode: str = "bilinear") -> Tensor:
    """Resize (B, C, H, W) to (B, C, 2H, 2W); the mode is "bilinear" or "nearest"."""
    # On a CPU, code by torch.compile scatters the gradients of this operation pixel by pixel, which takes a
    # fifth of a training step of the torch/luz network. A custom operation uses torch's own kernels instead.
    if x.device.type == "cpu" and torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return opaque_upsample_2x(x, mode)
    return F.interpolate(x, scale_factor=2, mode=mode)


@torch.library.custom_op("ddim::upsample_2x", mutates_args=(), device_types="cpu")
def opaque_upsample_2x(x: Tensor, mode: str) -> Tensor:
    """Return the result of `upsample_2x`, by a custom operation that torch.compile does not look into."""
    return F.interpolate(x, scale_factor=2, mode=mode)


@torch.library.custom_op("ddim::upsample_2x_backward", mutates_args=(), device_types="cpu")
def _upsample_2x_backward(gradient: Tensor, mode: str) -> Tensor:
    b, c, h, w = gradient.shape
    size, small = (h, w), (b, c, h // 2, w // 2)
    if mode == "nearest":
        return torch.ops.aten.upsample_nearest2d_backward(gradient, size, small, 2.0, 2.0)
    return torch.ops.aten.upsample_bilinear2d_backward(gradient, size, small, False, 2.0, 2.0)


opaque_upsample_2x.register_fake(lambda x, mode: F.interpolate(x, scale_factor=2, mode=mode))
_upsample_2x_backward.register_fake(
    lambda gradient, _: torch.empty_like(F.interpolate(gradient, scale_factor=0.5, mode="nearest"))
)
opaque_upsample_2x.register_autograd(
    lambda ctx, gradient: (_upsample_2x_backward(gradient, ctx.mode), None),
    setup_context=lambda ctx, inputs, output: setattr(ctx, "mode", inputs[1]),
)
