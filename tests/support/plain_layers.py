"""Layers in float64 on plain weights, for networks that tests write out once more."""

import math

import torch
from torch.nn import functional


def weights(layer):
    """Return the weight and the bias of a layer, or None."""
    return [None if each is None else each.double() for each in (layer.weight, layer.bias)]


def convolved(x, layer, **options):
    """Apply a convolution."""
    return functional.conv2d(x, *weights(layer), **options)


def spread_out(x, layer):
    """Apply a transposed convolution whose patches do not overlap: each place in a patch has a matrix."""
    weight, bias = weights(layer)
    return torch.einsum("bchw,cdij->bdhiwj", x, weight).flatten(2, 3).flatten(3, 4) + bias[:, None, None]


def projected(x, layer):
    """Apply a linear layer, or a 1x1 convolution, to the last axis."""
    weight, bias = weights(layer)
    return x @ weight.flatten(1).T + bias


def swish(x):
    """Return x times its sigmoid."""
    return x * torch.sigmoid(x)


def normed(x, norm):
    """Apply a group norm."""
    return functional.group_norm(x, norm.num_groups, *weights(norm), norm.eps)


def attended(x, qkv, proj, heads):
    """Apply self-attention to tokens (B, N, C): Vaswani et al. 2017, eq. 1, head by head."""
    mixed = []
    parts = [part.chunk(heads, -1) for part in projected(x, qkv).chunk(3, -1)]
    for q, k, v in zip(*parts, strict=True):
        mixed.append((q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1) @ v)
    return projected(torch.cat(mixed, -1), proj)


def attended_pixels(x, attention, norm=normed):
    """Apply self-attention to the pixels of x (B, C, H, W) after a norm, and add x."""
    tokens = norm(x, attention.norm).flatten(2).transpose(1, 2)
    mixed = attended(tokens, attention.qkv, attention.proj, attention.heads)
    return x + mixed.transpose(1, 2).reshape(x.shape)


def residual(x, block, embedded, resize=lambda x: x):
    """Apply a block of Ho et al. 2020, to which the embedding is added."""
    h = convolved(resize(swish(normed(x, block.norm1))), block.conv1, padding=1)
    h = h + projected(embedded, block.time_proj)[:, :, None, None]
    h = convolved(swish(normed(h, block.norm2)), block.conv2, padding=1)
    return h + (convolved(resize(x), block.shortcut) if hasattr(block.shortcut, "weight") else resize(x))
