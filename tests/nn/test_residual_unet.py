import math

import pytest
import torch
from torch.nn import functional as F

from ddim.nn.blocks import ExactConv2d
from ddim.nn.residual_unet import ResidualBlock
from ddim.runs.named_recipes import keras, luz
from oracles import made, shaken, uniform
from small_nets import RESIDUALS, build, check_float32_path, images, silence, swish

RECIPES = {"luz": luz, "keras": keras}
both = pytest.mark.parametrize("name", ["luz", "keras"])


def network(name):
    return made(lambda: RECIPES[name]().net.network(3))


@pytest.mark.parametrize("name, trainable", [("luz", 3_562_211), ("keras", 1_950_627)])
def test_the_number_of_parameters_is_that_of_the_original(name, trainable):
    assert sum(p.numel() for p in network(name).parameters()) == trainable


def test_the_tutorial_has_2880_batch_norm_statistics():
    net = network("keras")
    statistics = [value for key, value in net.named_buffers() if "running" in key]
    assert sum(value.numel() for value in statistics) == 2880


# The two networks once more, from the description of the originals, layer by layer on plain weights.


def mean_pool(x):
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def twice_as_large(x):
    """Bilinear, pixel centres at halves, edges repeated."""
    for axis in (2, 3):
        n = x.shape[axis]
        before = x.index_select(axis, torch.arange(n).sub(1).clamp(min=0))
        after = x.index_select(axis, torch.arange(n).add(1).clamp(max=n - 1))
        pairs = torch.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], dim=axis + 1)
        x = pairs.flatten(axis, axis + 1)
    return x


def conv1(x, layer):
    return torch.einsum("bchw,oc->bohw", x, layer.weight[:, :, 0, 0]) + layer.bias[:, None, None]


def conv3(x, layer):
    patches = F.unfold(x, 3, padding=1)  # (B, C * 9, H * W)
    out = layer.weight.flatten(1) @ patches + layer.bias[:, None]
    return out.reshape(len(x), -1, *x.shape[2:])


def residual_block(x, block, *, tutorial):
    eps = 1e-3 if tutorial else 1e-5
    shape = (1, -1, 1, 1)
    normed = (x - block.norm.running_mean.reshape(shape)) / (
        block.norm.running_var.reshape(shape) + eps
    ).sqrt()
    if not tutorial:
        normed = normed * block.norm.weight.reshape(shape) + block.norm.bias.reshape(shape)
    width = block.conv1.weight.shape[0]
    straight = x if tutorial and x.shape[1] == width else conv1(x, block.shortcut)
    return conv3(swish(conv3(normed, block.conv1)), block.conv2) + straight


def original(net, x, variance, *, widths, middle, tutorial):
    turns = torch.exp(torch.linspace(0, math.log(1000.0), 16, dtype=torch.float64))
    angles = 2 * math.pi * turns * variance[:, None]
    embedded = torch.cat([angles.sin(), angles.cos()], 1)[:, :, None, None].expand(-1, -1, *x.shape[2:])
    x = torch.cat([conv1(x, net.in_conv), embedded.to(x)], 1)
    skips = []
    for level in range(len(widths)):
        for k in range(2):
            x = residual_block(x, net.down[level][k], tutorial=tutorial)
            skips.append(x)
        x = mean_pool(x)
    for k in range(len(middle)):
        x = residual_block(x, net.middle[k], tutorial=tutorial)
        assert x.shape[1] == middle[k]
    for level in range(len(widths)):
        x = twice_as_large(x)
        for k in range(2):
            x = residual_block(torch.cat([x, skips.pop()], 1), net.up[level][k], tutorial=tutorial)
    return conv1(x, net.out_conv)


@pytest.mark.parametrize(
    "name, widths, middle", [("luz", (32, 64, 96, 128), (256, 128)), ("keras", (32, 64, 96), (128, 128))]
)
def test_the_network_equals_the_original_layer_by_layer(name, widths, middle):
    net = shaken(network(name))
    x, variance = images(2, 3, 16, 32), uniform(2).float()
    options = {"widths": widths, "middle": middle, "tutorial": name == "keras"}
    with torch.no_grad():
        found = net(x, variance).double()
        exact = original(net.double(), x.double(), variance.double(), **options)
    # Angles in float32, as the network has them, differ from exact ones by 5e-4.
    assert exact.std() > 0.1
    assert torch.allclose(found, exact, rtol=0, atol=2e-3 * exact.std().item())


@both
def test_sizes_and_channels_of_stages_are_those_of_the_original(name):
    seen, net = [], network(name)
    for module in net.modules():
        if isinstance(module, ResidualBlock):
            module.register_forward_hook(lambda m, i, o: seen.append((o.shape[1], o.shape[2])))
    net.eval()(images(1, 3, 64, 64), torch.zeros(1))
    down = {"luz": [(32, 64), (64, 32), (96, 16), (128, 8)], "keras": [(32, 64), (64, 32), (96, 16)]}[name]
    middle = {"luz": [(256, 4), (128, 4)], "keras": [(128, 8), (128, 8)]}[name]
    up = {
        # The luz network's levels already have the width of the next on the way up, the last the embedding's.
        "luz": [(96, 8), (64, 16), (32, 32), (32, 64)],
        "keras": [(96, 16), (64, 32), (32, 64)],
    }[name]
    twice = lambda levels: [level for level in levels for _ in range(2)]
    assert seen == twice(down) + middle + twice(up)


@pytest.mark.parametrize("keras, kept, affine", [(True, 0.99, False), (False, 0.9, True)])
def test_batch_norm_has_the_momentum_and_affine_part_of_the_original(keras, kept, affine):
    block = made(lambda: ResidualBlock(4, 4, keras=keras))
    x = 5 + images(8, 4, 6, 6)
    block.norm.running_mean.fill_(2.0)
    block.train()(x)
    assert torch.allclose(block.norm.running_mean, kept * 2 + (1 - kept) * x.mean((0, 2, 3)))
    assert block.norm.affine is affine


def test_the_tutorials_convolutions_have_the_initial_weights_of_keras():
    net = network("keras")
    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer is not net.out_conv:
            size = layer.kernel_size[0] ** 2
            bound = math.sqrt(6 / ((layer.in_channels + layer.out_channels) * size))
            assert layer.weight.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
            assert not layer.bias.any()


@pytest.mark.parametrize("name", RESIDUALS)
def test_the_path_of_the_image_stays_float32_under_autocast(name):
    net, x, embedded = shaken(build(RESIDUALS[name])), images(2, 3, 12, 12), torch.tensor([0.1, 0.9])
    # The branches added to the path may be rounded; they are set to zero.
    for module in net.modules():
        if isinstance(module, ResidualBlock):
            silence(module.conv2)
    check_float32_path(net, x, 0, embedded)


@both
def test_first_last_and_projecting_convolutions_are_exact(name):
    net = network(name)
    ones = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (1, 1)]
    assert net.in_conv in ones
    assert net.out_conv in ones
    assert all(isinstance(layer, ExactConv2d) for layer in ones)
