import math
from dataclasses import replace

import diffusers
import pytest
import torch

from ddim.exchange.diffusers import convert_to_diffusers
from ddim.nn.blocks import Attention
from ddim.nn.ddpm_unet import DDPMUNetSpec
from oracles import made, normal, shaken
from plain_layers import attended_pixels, convolved, normed, projected, residual, swish
from small_nets import DDPMS, IDDPM, build, images

F_, T_ = False, True


def small(name, **changes):
    return build(replace(DDPMS[name], **changes))


@pytest.mark.parametrize("width", [8, 12, 32, 128, 192])
def test_with_group_channels_each_norm_has_the_groups_of_karras_et_al(width):
    """min(32, C / 4) groups of C channels, in the code of Karras et al. 2022, at every width."""
    spec = DDPMUNetSpec(width, (1, 2), 1, (F_, F_), group_channels=4)
    with torch.device("meta"):
        norms = [m for m in spec.network(3).modules() if isinstance(m, torch.nn.GroupNorm)]
    assert {norm.num_channels for norm in norms} >= {width, 2 * width, 3 * width}
    assert all(norm.num_groups == min(32, norm.num_channels // 4) for norm in norms)


def test_the_score_networks_start_attention_and_classes_as_karras_et_al_do():
    """Glorot's bound times sqrt(0.2) for the 1x1 convolution to 3C channels; rows times sqrt(classes)."""
    net = small("ncsn++", width=64, groups=8, classes=10)
    for qkv in [module.qkv.weight for module in net.modules() if isinstance(module, Attention)]:
        bound = 0.2**0.5 * (6 / (qkv.shape[1] + qkv.shape[0])) ** 0.5
        assert 0.99 < qkv.abs().max() / bound <= 1
    label = net.class_embedding.weight
    assert label.shape == (10, 128)  # NCSN++ has twice its width of positions
    assert 0.99 < label.abs().max() / (10**0.5 * (6 / (10 + 128)) ** 0.5) <= 1


# Against diffusers, weight by weight.

DOWN, UP = ("AttnDownBlock2D", "DownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")


def theirs(spec, **options):
    down = [DOWN[0] if attend else DOWN[1] for attend in spec.attention]
    up = [UP[0] if attend else UP[1] for attend in reversed(spec.attention)]
    blocks = {"block_out_channels": spec.widths, "layers_per_block": spec.blocks}
    norms = {"norm_num_groups": spec.groups, "norm_eps": spec.eps, "attention_head_dim": spec.head}
    blocks |= {"down_block_types": down, "up_block_types": up, **norms, **options}
    return made(lambda: diffusers.UNet2DModel(16, **blocks)).eval()


def the_same(spec, other, rename=lambda name: name, sizes=((16, 16), (8, 24))):
    """Our network and theirs with the same random weights, on images and indices."""
    net = shaken(made(lambda: spec.network(3)))
    theirs = convert_to_diffusers(net.state_dict())
    other.load_state_dict({rename(name): value for name, value in theirs.items()})
    index = torch.tensor([0, 1, 500, 999])
    for height, width in sizes:
        x = images(4, 3, height, width)
        with torch.no_grad():
            found, wanted = net(x, index.float()), other(x, index).sample
        assert wanted.std() > 0.1
        assert torch.allclose(found, wanted, rtol=0, atol=1e-5 * max(1.0, wanted.std().item()))


@pytest.mark.parametrize("head", [None, 8])
@pytest.mark.parametrize("attention", [(F_, T_, F_), (T_, F_, T_)])
def test_it_equals_the_ddpm_of_diffusers(attention, head):
    spec = DDPMUNetSpec(width=16, multipliers=(1, 2, 2), blocks=2, attention=attention, head=head, groups=8)
    the_same(spec, theirs(spec, freq_shift=1, flip_sin_to_cos=False, downsample_padding=0))


def test_improved_ddpm_and_adm_equal_those_of_diffusers():
    """Scale and shift, padding on both sides, cosines first; then blocks that resample, on every level."""
    spec = DDPMUNetSpec(16, (1, 2, 3), blocks=2, attention=(F_, T_, T_), head=8, groups=8, **IDDPM)
    shared = {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8}
    the_same(spec, theirs(spec, **shared))
    spec = replace(spec, attention=(T_, T_, T_), resample="box")
    blocks = theirs(spec, **shared, downsample_type="resnet", upsample_type="resnet")
    resnet = lambda name: name.replace("samplers.0.conv.", "samplers.0.")
    the_same(spec, blocks, resnet)


# The networks that diffusers lacks, from the papers' description, in float64 on plain weights.


def filtering(n, taps, pad):
    """The matrix (n / 2, n) that filters a line at every second pixel, with `pad` zeros outside of it."""
    matrix = torch.zeros((n + 2 * pad - len(taps)) // 2 + 1, n + 2 * pad, dtype=torch.float64)
    for k, row in enumerate(matrix):
        row[2 * k : 2 * k + len(taps)] = torch.tensor(taps) / sum(taps)
    return matrix[:, pad : pad + n]


def smaller(x, *by):
    return filtering(x.shape[2], *by) @ x @ filtering(x.shape[3], *by).T


def larger(x, *by):
    return 4 * filtering(2 * x.shape[2], *by).T @ x @ filtering(2 * x.shape[3], *by)


def score_block(*given):
    return residual(*given) / math.sqrt(2)


def score_attention(x, attention):
    return attended_pixels(x, attention) / math.sqrt(2)


@pytest.mark.parametrize("name", ["ddpm++", "ncsn++"])
def test_the_score_networks_equal_their_description_layer_by_layer(name):
    """Song et al. 2021b, appendix H: two levels, so that the order and place of every skip matter."""
    net = shaken(small(name, multipliers=(2, 2), attention=(F_, T_), augment=9))
    taps, pad = ([1.0, 1.0], 0) if name == "ddpm++" else ([1.0, 3.0, 3.0, 1.0], 1)
    down, up = lambda x: smaller(x, taps, pad), lambda x: larger(x, taps, pad)
    x, index, augment = images(2, 3, 8, 12), torch.tensor([0.3, 1.4]), normal(2, 9, seed=2).float()
    with torch.no_grad():
        position = net.embedding(index).double() + augment.double() @ net.augment_proj.weight.double().T
        embedded = swish(projected(swish(projected(position, net.time_mlp[0])), net.time_mlp[2]))
        entered = convolved(x.double(), net.in_conv, padding=1)
        first = score_block(entered, net.down[0][0].block, embedded)
        shrunk = score_block(first, net.downsample[0], embedded, down)
        if name == "ncsn++":
            # The image gets the zeros of convolution and filter at once, so that the filter needs no others.
            image = smaller(convolved(x.double(), net.pyramid[0][0], padding=1 + pad), taps, 0)
            shrunk = (shrunk + image) / math.sqrt(2)
        second = score_attention(
            score_block(shrunk, net.down[1][0].block, embedded), net.down[1][0].attention
        )
        h = score_attention(score_block(second, net.middle[0].block, embedded), net.middle[0].attention)
        h = score_block(h, net.middle[1].block, embedded)
        h = score_block(torch.cat([h, second], 1), net.up[0][0].block, embedded)
        h = score_block(torch.cat([h, shrunk], 1), net.up[0][1].block, embedded)
        h = score_attention(h, net.up[0][1].attention)
        h = score_block(h, net.upsample[0], embedded, up)
        h = score_block(torch.cat([h, first], 1), net.up[1][0].block, embedded)
        h = score_block(torch.cat([h, entered], 1), net.up[1][1].block, embedded)
        wanted = convolved(swish(normed(h, net.out_norm)), net.out_conv, padding=1)
        found = net(x, index, None, augment).double()
    assert wanted.std() > 0.1
    assert torch.allclose(found, wanted, rtol=0, atol=1e-4 * wanted.std().item())
