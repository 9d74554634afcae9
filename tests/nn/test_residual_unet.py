import math

import pytest
import torch
from torch.nn import functional as F

from ddim.nn.residual_unet import ResidualBlock
from ddim.recipe.named import keras, luz
from oracles import made, shaken, uniform
from plain_layers import convolved, swish
from small_nets import images

RECIPES = {"luz": luz, "keras": keras}


def network(name):
    return made(lambda: RECIPES[name]().net.network(3))


# The two networks once more, from the description of the originals, layer by layer on plain weights.


def residual_block(x, block, *, tutorial):
    shape, norm = (1, -1, 1, 1), block.norm
    spread = (norm.running_var.reshape(shape) + (1e-3 if tutorial else 1e-5)).sqrt()
    normed = (x - norm.running_mean.reshape(shape)) / spread
    if not tutorial:
        normed = normed * norm.weight.reshape(shape) + norm.bias.reshape(shape)
    width = block.conv1.weight.shape[0]
    straight = x if tutorial and x.shape[1] == width else convolved(x, block.shortcut)
    h = swish(convolved(normed, block.conv1, padding=1))
    return convolved(h, block.conv2, padding=1) + straight


@pytest.mark.parametrize(
    "name, down, middle, up",
    [
        # In the luz network a stage has the width of the next on the way up, the last that of the embedding.
        ("luz", (32, 64, 96, 128), (256, 128), (96, 64, 32, 32)),
        ("keras", (32, 64, 96), (128, 128), (96, 64, 32)),
    ],
)
def test_the_network_equals_the_original_layer_by_layer(name, down, middle, up):
    net, x, variance = shaken(network(name)), images(2, 3, 16, 32), uniform(2).float()
    with torch.no_grad():
        found = net(x, variance).double()
        net.double()
        turns = torch.exp(torch.linspace(0, math.log(1000.0), 16, dtype=torch.float64))
        angles = 2 * math.pi * turns * variance.double()[:, None]
        embedded = torch.cat([angles.sin(), angles.cos()], 1)[:, :, None, None].expand(-1, -1, 16, 32)
        h, skips = torch.cat([convolved(x.double(), net.in_conv), embedded], 1), []
        for stage, width in zip(net.down, down, strict=True):
            for block in stage:
                h = residual_block(h, block, tutorial=name == "keras")
                assert h.shape[1] == width
                skips.append(h)
            h = (h[..., ::2, ::2] + h[..., 1::2, ::2] + h[..., ::2, 1::2] + h[..., 1::2, 1::2]) / 4
        for block, width in zip(net.middle, middle, strict=True):
            h = residual_block(h, block, tutorial=name == "keras")
            assert h.shape[1] == width
        for stage, width in zip(net.up, up, strict=True):
            h = F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=False)
            for block in stage:
                h = residual_block(torch.cat([h, skips.pop()], 1), block, tutorial=name == "keras")
                assert h.shape[1] == width
        exact = convolved(h, net.out_conv)
    # Angles in float32, as the network has them, differ from exact ones by 5e-4.
    assert exact.std() > 0.1
    assert torch.allclose(found, exact, rtol=0, atol=2e-3 * exact.std().item())


@pytest.mark.parametrize("tutorial, kept, affine", [(True, 0.99, False), (False, 0.9, True)])
def test_batch_norm_has_the_momentum_and_affine_part_of_the_original(tutorial, kept, affine):
    block = made(lambda: ResidualBlock(4, 4, keras=tutorial))
    x = 5 + images(8, 4, 6, 6)
    block.norm.running_mean.fill_(2.0)
    block.train()(x)
    assert torch.allclose(block.norm.running_mean, kept * 2 + (1 - kept) * x.mean((0, 2, 3)))
    assert block.norm.affine is affine
