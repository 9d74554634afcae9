import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ddim.errors import UserError
from ddim.nn.blocks import Attention
from ddim.nn.clear_unet import ClearUNetSpec
from oracles import shaken, uniform
from small_nets import CLEARS, build, check_float32_path, convolved, images, projected, silence, swish


@pytest.mark.parametrize(
    "options, count",
    [({}, 29_828_419), ({"widths": (32, 64, 96, 128), "attention": (False,) * 4}, 2_030_563)],
)
def test_the_number_of_parameters_is_that_of_the_original(options, count):
    with torch.device("meta"):
        net = ClearUNetSpec(**options).network(3)
    assert sum(p.numel() for p in net.parameters()) == count


def keras_bound(shape):
    """The bound of Glorot & Bengio 2010, eq. 16, for a kernel as Keras counts its fans."""
    places = math.prod(shape[:-2])
    return (6 / (places * (shape[-2] + shape[-1]))) ** 0.5


def test_attention_has_the_initial_weights_of_keras():
    """MultiHeadAttention's kernels are (C, heads, key_dim) thrice and (heads, key_dim, C)."""
    net = build(ClearUNetSpec((8, 64), (False, True), heads=4, stem=8))
    layers = [module for module in net.modules() if isinstance(module, Attention)]
    assert layers
    for attend in layers:
        for layer, shape in (attend.qkv, (64, 4, 64)), (attend.proj, (4, 64, 64)):
            reached = layer.weight.abs().max().item()
            assert 0.99 < reached / keras_bound(shape) <= 1
            assert not layer.bias.any()


def test_only_its_last_convolution_starts_at_zero():
    net = build(CLEARS["clear with attention"])
    zero = [name for name, p in net.named_parameters() if name.endswith("weight") and not p.any()]
    assert zero == ["out_conv.weight"]


@pytest.mark.parametrize("name", ["clear", "clear of patches"])
def test_the_path_of_the_image_stays_float32_under_autocast(name):
    net, x, embedded = shaken(build(CLEARS[name])), images(2, 3, 12, 12), torch.tensor([0.1, 0.9])
    for stage in (net.down[0], net.up[-1]):
        attention = [attend.proj for attend in stage.attention if hasattr(attend, "proj")]
        for branch in [block.conv2 for block in stage.blocks] + attention:
            silence(branch)
    # The input from the stage below is cut off.
    with torch.no_grad():
        net.up[-1].blocks[0].shortcut.weight[:, : CLEARS[name].widths[1]] = 0
    check_float32_path(net, x, 1e-5, embedded)


# The network once more, from the description of the original, in float64 on plain weights.


def normed(x, groups):
    grouped = x.reshape(len(x), groups, -1)
    spread = (grouped.var(-1, unbiased=False, keepdim=True) + 1e-3).sqrt()
    return ((grouped - grouped.mean(-1, keepdim=True)) / spread).reshape(x.shape)


def affine(x, layer, groups):
    return normed(x, groups) * layer.weight.double()[:, None, None] + layer.bias.double()[:, None, None]


def apply_stage(x, stage, k, embedded, groups, heads):
    block, attend = stage.blocks[k], stage.attention[k]
    straight = convolved(x, block.shortcut) if x.shape[1] != block.conv1.out_channels else x
    h = convolved(swish(affine(x, block.norm1, groups)), block.conv1, padding=1)
    h = h + projected(embedded, block.time_proj)[:, :, None, None]
    x = straight + convolved(swish(affine(h, block.norm2, groups)), block.conv2, padding=1)
    if not hasattr(attend, "qkv"):
        return x
    b, c, height, width = x.shape
    # Each head is as wide as the stage.
    parts = convolved(normed(x, groups), attend.qkv).chunk(3, 1)
    qs, ks, vs = (part.flatten(2).chunk(heads, 1) for part in parts)
    mixed = []
    for q, k_, v in zip(qs, ks, vs, strict=True):
        assert q.shape[1] == c
        mixed.append(v @ (q.transpose(1, 2) @ k_ / math.sqrt(c)).softmax(-1).transpose(1, 2))
    return x + convolved(torch.cat(mixed, 1).reshape(b, -1, height, width), attend.proj)


def test_the_network_equals_the_original_layer_by_layer():
    spec = replace(CLEARS["clear"], attention=(False, True), heads=2, patch=2)
    net, x, variance = shaken(build(spec)), images(2, 3, 16, 24), uniform(2).float()
    step = lambda x, stage, k: apply_stage(x, stage, k, embedded, 4, 2)
    with torch.no_grad():
        turns = torch.logspace(0, math.log10(1000.0), 4, dtype=torch.float64)
        angles = 2 * math.pi * turns * variance.double()[:, None]
        embedded = torch.cat([angles.sin(), angles.cos()], 1)
        for layer in (net.time_mlp[0], net.time_mlp[2]):
            embedded = swish(projected(embedded, layer))
        entered = convolved(x.double(), net.in_conv, stride=2)
        first = step(entered, net.down[0], 0)
        second = step(first, net.down[0], 1)
        h = (second[..., ::2, :] + second[..., 1::2, :]) / 2
        h = (h[..., ::2] + h[..., 1::2]) / 2
        h = step(step(h, net.middle, 0), net.middle, 1)
        h = F.interpolate(h, scale_factor=2, mode="bilinear")
        h = step(torch.cat([h, second], 1), net.up[0], 0)
        h = step(torch.cat([h, first], 1), net.up[0], 1)
        # Each pixel becomes a patch by a matrix of its own for each place in it.
        wanted = (
            torch.einsum("bchw,cdij->bdhiwj", h, net.out_conv.weight.double()).flatten(2, 3).flatten(3, 4)
        )
        wanted = wanted + net.out_conv.bias.double()[:, None, None]
        assert wanted.std() > 0.1
        assert torch.allclose(net(x, variance).double(), wanted, rtol=0, atol=1e-3 * wanted.std().item())


@pytest.mark.parametrize(
    "options, said",
    [
        ({"depth": 0}, "net.depth must be above 0, got 0"),
        ({"widths": (32, 64)}, "one entry per stage"),
        ({"widths": (), "attention": ()}, "one entry per stage"),
        ({"stem": 12}, "multiples of net.groups 8"),
        ({"embedding": 7}, "net.embedding must be even"),
    ],
)
def test_impossible_networks_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        ClearUNetSpec(**options)
