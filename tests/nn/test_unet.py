import torch
from torch.nn import functional as F

from ddim.nn.blocks import Attention
from ddim.nn.unet import UNetSpec
from oracles import shaken, uniform
from plain_layers import attended_pixels, convolved, projected, spread_out, swish, weights
from small_nets import build, images


def normed(x, norm):
    return F.layer_norm(x.movedim(1, -1), x.shape[1:2], *weights(norm)).movedim(-1, 1)


def staged(x, stage, embedded):
    for block in stage.blocks:
        h = convolved(swish(normed(x, block.norm)), block.conv1, padding=1)
        scale, shift = projected(embedded, block.time_proj)[:, :, None, None].chunk(2, 1)
        x = x + convolved(swish(h * (1 + scale) + shift), block.conv2, padding=1)
    return attended_pixels(x, stage.attention, normed) if isinstance(stage.attention, Attention) else x


def test_the_network_equals_its_description_layer_by_layer():
    """In float64, from weights alone: three sizes, so that order and place of every skip matter."""
    spec = UNetSpec((8, 128, 24), (1, 2, 1), (2, 1, 1), (False, True, False), embedding=16)
    net, x, value = shaken(build(spec)), images(2, 3, 8, 12), uniform(2).float()
    with torch.no_grad():
        embedded = net.time_mlp(net.embedding(value)).double()
        first = staged(convolved(x.double(), net.in_conv, padding=1), net.down[0], embedded)
        second = staged(convolved(first, net.downsample[0], stride=2), net.down[1], embedded)
        h = staged(convolved(second, net.downsample[1], stride=2), net.down[2], embedded)
        h = staged(h, net.up[2], embedded)
        h = staged(second + spread_out(h, net.upsample[1]), net.up[1], embedded)
        h = staged(first + spread_out(h, net.upsample[0]), net.up[0], embedded)
        gain = 1 + projected(embedded, net.out_gain)
        wanted = convolved(h * gain[:, :, None, None], net.out_conv, padding=1)
        assert wanted.std() > 0.1
        assert net.up[1].attention.heads == 2
        assert torch.allclose(net(x, value).double(), wanted, rtol=0, atol=1e-4 * wanted.std().item())
