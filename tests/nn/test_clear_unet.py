import math
from dataclasses import replace

import torch
from torch.nn import functional as F

from ddim.nn.blocks import Attention
from ddim.nn.clear_unet import ClearUNetSpec
from oracles import shaken, uniform
from plain_layers import attended_pixels, convolved, projected, residual, spread_out, swish
from small_nets import CLEARS, build, images


def test_attention_has_the_initial_weights_of_keras():
    """MultiHeadAttention's kernels are (C, heads, key_dim) thrice and (heads, key_dim, C).

    Keras counts all axes but the last two as places of a convolution: Glorot & Bengio 2010, eq. 16.
    """
    net = build(ClearUNetSpec((8, 64), (False, True), heads=4, stem=8))
    layers = [module for module in net.modules() if isinstance(module, Attention)]
    assert layers
    for attend in layers:
        for layer, shape in (attend.qkv, (64, 4, 64)), (attend.proj, (4, 64, 64)):
            bound = (6 / (shape[0] * (shape[1] + shape[2]))) ** 0.5
            assert 0.99 < layer.weight.abs().max().item() / bound <= 1
            assert not layer.bias.any()


def test_the_network_equals_the_original_layer_by_layer():
    spec = replace(CLEARS["clear"], attention=(False, True), heads=2, patch=2)
    net, x, variance = shaken(build(spec)), images(2, 3, 16, 24), uniform(2).float()
    with torch.no_grad():
        turns = torch.logspace(0, math.log10(1000.0), 4, dtype=torch.float64)
        angles = 2 * math.pi * turns * variance.double()[:, None]
        embedded = torch.cat([angles.sin(), angles.cos()], 1)
        for layer in (net.time_mlp[0], net.time_mlp[2]):
            embedded = swish(projected(embedded, layer))
        entered = convolved(x.double(), net.in_conv, stride=2)
        first = residual(entered, net.down[0].blocks[0], embedded)
        second = residual(first, net.down[0].blocks[1], embedded)
        h = (second[..., ::2, :] + second[..., 1::2, :]) / 2
        h = (h[..., ::2] + h[..., 1::2]) / 2
        for block, attention in zip(net.middle.blocks, net.middle.attention, strict=True):
            h = attended_pixels(residual(h, block, embedded), attention)
            assert attention.proj.in_channels == 2 * h.shape[1]  # each head is as wide as the stage
        h = F.interpolate(h, scale_factor=2, mode="bilinear")
        h = residual(torch.cat([h, second], 1), net.up[0].blocks[0], embedded)
        h = residual(torch.cat([h, first], 1), net.up[0].blocks[1], embedded)
        wanted = spread_out(h, net.out_conv)
        assert wanted.std() > 0.1
        assert torch.allclose(net(x, variance).double(), wanted, rtol=0, atol=1e-3 * wanted.std().item())
