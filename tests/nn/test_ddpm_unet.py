import math
from dataclasses import replace

import diffusers
import pytest
import torch
from torch.nn import functional as F

from ddim.errors import UserError
from ddim.nn.blocks import Attention, ExactConv2d
from ddim.nn.ddpm_unet import Block, DDPMUNetSpec, Filter
from ddim.runs.diffusers_weights import convert_to_diffusers
from oracles import made, normal, shaken
from small_nets import (
    DDPMS,
    IDDPM,
    PAPERS,
    build,
    check_float32_path,
    convolved,
    images,
    projected,
    silence,
    swish,
)

F_, T_ = False, True
PARAMETERS = {
    "ddpm": 35_746_307,
    "iddpm": 52_546_438,
    "iddpm of ImageNet-64": 121_575_942,
    "ddpm++": 55_733_891,
    "ncsn++": 56_397_827,
    "adm of ImageNet-64": 295_899_267,
}
every_form = pytest.mark.parametrize("name", DDPMS)


def small(name, **changes):
    return build(replace(DDPMS[name], **changes))


@pytest.mark.parametrize("name", PAPERS)
def test_the_number_of_parameters_is_that_of_the_original(name):
    with torch.device("meta"):
        net = DDPMUNetSpec(**PAPERS[name]).network(3)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("width", [8, 12, 32, 128, 192])
def test_with_group_channels_each_norm_has_the_groups_of_karras_et_al(width):
    """min(32, C / 4) groups of C channels, in the code of Karras et al. 2022, at every width."""
    spec = DDPMUNetSpec(width, (1, 2), 1, (F_, F_), group_channels=4)
    with torch.device("meta"):
        norms = [m for m in spec.network(3).modules() if isinstance(m, torch.nn.GroupNorm)]
    assert {norm.num_channels for norm in norms} >= {width, 2 * width, 3 * width}
    assert all(norm.num_groups == min(32, norm.num_channels // 4) for norm in norms)


@every_form
def test_every_block_starts_as_its_shortcut(name):
    net = small(name)
    for module in net.modules():
        if isinstance(module, Block):
            assert not module.conv2.weight.any()
        if isinstance(module, Attention):
            assert not module.proj.weight.any()
    assert not net.out_conv.weight.any()


def test_the_score_networks_start_attention_and_classes_as_karras_et_al_do():
    """Glorot's bound times sqrt(0.2) for the 1x1 convolution to 3C channels; rows times sqrt(classes)."""
    net = small("ncsn++", width=64, groups=8, classes=10)
    for qkv in [module.qkv.weight for module in net.modules() if isinstance(module, Attention)]:
        bound = 0.2**0.5 * (6 / (qkv.shape[1] + qkv.shape[0])) ** 0.5
        assert 0.99 < qkv.abs().max() / bound <= 1
    label = net.class_embedding.weight
    assert label.shape == (10, 128)  # NCSN++ has twice its width of positions
    assert 0.99 < label.abs().max() / (10**0.5 * (6 / (10 + 128)) ** 0.5) <= 1


def test_adm_ignores_augmentation_at_first():
    assert not small("adm of ImageNet-64", augment=9).augment_proj.weight.any()


def test_no_augmentation_equals_nine_zeros():
    net, x, embedded = shaken(small("ddpm++")), images(2, 3, 8, 8), torch.tensor([5.0, 9.0])
    with torch.no_grad():
        assert torch.equal(net(x, embedded), net(x, embedded, None, torch.zeros(2, 9)))
        other = net(x, embedded, None, torch.tensor([[0.0] * 9, [0.0] * 8 + [1.0]]))
    assert torch.equal(net(x, embedded)[0], other[0])
    assert not torch.allclose(net(x, embedded)[1], other[1], atol=1e-3)


def test_dropout_is_for_training_only():
    net, x, embedded = shaken(small("ddpm", dropout=0.5)), images(2, 3, 8, 8), torch.tensor([5.0, 9.0])
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        assert torch.equal(net(x, embedded), net(x, embedded))
        net.train()
        assert not torch.allclose(net(x, embedded), net(x, embedded), atol=1e-3)


@every_form
def test_the_path_of_the_image_at_full_resolution_stays_float32_under_autocast(name):
    net, x = shaken(small(name)), images(2, 3, 16, 16)
    for stage in (*net.down[0], *net.up[-1]):
        silence(stage.block.conv2)
    # The input from the stages below is cut off.
    with torch.no_grad():
        net.up[-1][0].block.shortcut.weight[:, : net.up[-2][-1].block.conv2.out_channels] = 0
    check_float32_path(net, x, 1e-5)


@every_form
def test_only_layers_of_full_resolution_are_exact(name):
    net = small(name)
    exact = {key for key, module in net.named_modules() if isinstance(module, ExactConv2d)}
    last = len(net.up) - 1
    assert {"in_conv", "out_conv"} <= exact
    assert all(key.startswith(("in_conv", "out_conv", "down.0.", f"up.{last}.")) for key in exact)


# Against diffusers, weight by weight.

DOWN, UP = ("AttnDownBlock2D", "DownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")


def theirs(spec, **options):
    down = [DOWN[0] if attend else DOWN[1] for attend in spec.attention]
    up = [UP[0] if attend else UP[1] for attend in reversed(spec.attention)]
    channels = {"in_channels": 3, "out_channels": 3, "block_out_channels": spec.widths}
    blocks = {"down_block_types": down, "up_block_types": up, "layers_per_block": spec.blocks}
    norms = {"norm_num_groups": spec.groups, "norm_eps": spec.eps, "attention_head_dim": spec.head}
    made_of = {"sample_size": 16, **channels, **blocks, **norms, **options}
    return made(lambda: diffusers.UNet2DModel(**made_of)).eval()


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


def normed(x, norm):
    grouped = x.reshape(len(x), norm.num_groups, -1)
    spread = (grouped.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    x = ((grouped - grouped.mean(-1, keepdim=True)) / spread).reshape(x.shape)
    return x * norm.weight.double()[:, None, None] + norm.bias.double()[:, None, None]


def smaller(x, taps, pad):
    """Every second pixel of the image filtered along rows, then along columns, with so many zeros outside."""
    taps = torch.tensor(taps).double() / sum(taps)
    for axis in (2, 3):
        wide = F.pad(x, (0, 0, pad, pad) if axis == 2 else (pad, pad))
        places = torch.arange(0, wide.shape[axis] - len(taps) + 1, 2)
        x = sum(tap * wide.index_select(axis, places + k) for k, tap in enumerate(taps.tolist()))
    return x


def larger(x, taps, pad):
    """Each pixel spread over its neighbours by the filter, along rows, then along columns."""
    taps = 2 * torch.tensor(taps).double() / sum(taps)
    for axis in (2, 3):
        count = x.shape[axis]
        shape = list(x.shape)
        shape[axis] = 2 * count + 2 * pad
        wide = torch.zeros(shape, dtype=x.dtype)
        for k, tap in enumerate(taps.tolist()):
            wide.index_add_(axis, 2 * torch.arange(count) + k, tap * x)
        x = wide.narrow(axis, pad, 2 * count)
    return x


def score_block(x, block, embedded, resize=lambda x: x):
    h = convolved(resize(swish(normed(x, block.norm1))), block.conv1, padding=1)
    shift = projected(embedded, block.time_proj)
    h = convolved(swish(normed(h + shift[:, :, None, None], block.norm2)), block.conv2, padding=1)
    straight = convolved(resize(x), block.shortcut) if hasattr(block.shortcut, "weight") else resize(x)
    return (straight + h) / math.sqrt(2)


def score_attention(x, attend):
    b, c, h, w = x.shape
    q, k, v = convolved(normed(x, attend.norm), attend.qkv).flatten(2).chunk(3, dim=1)
    weights = (q.transpose(1, 2) @ k / math.sqrt(c)).softmax(-1)
    return (x + convolved((v @ weights.transpose(1, 2)).reshape(b, c, h, w), attend.proj)) / math.sqrt(2)


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


@pytest.mark.parametrize("blur, taps, pad", [(False, [1.0, 1.0], 0), (True, [1.0, 3.0, 3.0, 1.0], 1)])
def test_filters_halve_and_double_the_size_and_keep_the_mean_inside(blur, taps, pad):
    x = images(2, 3, 6, 10)
    down, up = Filter(blur=blur)(x), Filter(up=True, blur=blur)(x)
    assert torch.allclose(down.double(), smaller(x.double(), taps, pad), atol=1e-6)
    assert torch.allclose(up.double(), larger(x.double(), taps, pad), atol=1e-6)
    inside = (..., slice(2, -2), slice(2, -2))
    for made_of in (down, up):
        flat = Filter(blur=blur, up=made_of is up)(torch.ones(1, 1, 16, 16))
        assert torch.allclose(flat[inside], torch.ones(()), atol=1e-6)
    assert not list(Filter(blur=blur).state_dict())


@pytest.mark.parametrize(
    "options, said",
    [
        ({"width": 0}, "net.width must be above 0, got 0"),
        ({"width": 48}, "a multiple of net.groups, got 48 and 32"),
        ({"blocks": 0}, "net.blocks must be above 0"),
        ({"multipliers": (1, 2)}, "one entry per stage, got 2 and 4"),
        ({"multipliers": (), "attention": ()}, "net.multipliers and net.head must be above 0"),
        ({"dropout": 1.0}, "net.dropout must be at least 0 and less than 1, got 1.0"),
        ({"heads": 3}, "net.heads must divide the 256 channels that have attention, got 3"),
        ({"head": 96}, "net.head must divide the 256 channels that have attention, got 96"),
        ({"classes": -1}, "net.classes and net.augment must be at least 0"),
        ({"pyramid": True}, 'net.pyramid needs net.resample "box" or "blur", got "same"'),
    ],
)
def test_impossible_networks_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        DDPMUNetSpec(**options)
