import math

import diffusers
import pytest
import torch
from torch.nn import functional as F

from ddim.errors import UserError
from ddim.nn.blocks import Attention, ExactConv2d
from ddim.nn.ddpm_blocks import Block, Filter
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.runs.diffusers_format import to_diffusers
from oracles import made, normal, shaken

F_, T_ = False, True
IDDPM = {"embedding": "cos_sin", "scale_shift": True, "resample": "strided", "eps": 1e-5}
SDE = {"multipliers": (2, 2, 2), "attention": (F_, T_, F_), "sde": True, "augment": 9}
PAPERS = {
    "ddpm": ({}, 35_746_307),
    "iddpm": ({**IDDPM, "blocks": 3, "attention": (F_, T_, T_, F_), "heads": 4, "outputs": 2}, 52_546_438),
    "iddpm of ImageNet-64": (
        {
            **IDDPM,
            "multipliers": (1, 2, 3, 4),
            "blocks": 3,
            "attention": (F_, F_, T_, T_),
            "heads": 4,
            "outputs": 2,
            "classes": 1000,
        },
        121_575_942,
    ),
    "ddpm++": ({**SDE, "blocks": 4, "resample": "box"}, 55_733_891),
    "ncsn++": (
        {**SDE, "blocks": 4, "resample": "blur", "pyramid": True, "embedding": "fourier"},
        56_397_827,
    ),
    "adm of ImageNet-64": (
        {
            **IDDPM,
            "width": 192,
            "multipliers": (1, 2, 3, 4),
            "blocks": 3,
            "attention": (F_, T_, T_, T_),
            "head": 64,
            "resample": "box",
            "classes": 1000,
        },
        295_899_267,
    ),
}
LITTLE = {"width": 8, "groups": 4, "blocks": 1, "dropout": 0.0}
SMALL = {
    name: {**options, **LITTLE, **({"head": 8} if "head" in options else {})}
    for name, (options, _) in PAPERS.items()
}
every_form = pytest.mark.parametrize("name", list(SMALL))


def small(name, channels=3, **changes):
    return made(lambda: DDPMUNetSpec(**{**SMALL[name], **changes}).network(channels))


def images(*shape, seed=0):
    return normal(*shape, seed=seed, dtype=torch.float32)


def asked(net, x, label=None):
    """The network at two levels, told what it can be told."""
    given = [] if not net.augment else [normal(len(x), 9, seed=3, dtype=torch.float32)]
    return net(x, torch.linspace(0.3, 700, len(x)), label, *given)


@pytest.mark.parametrize("name", list(PAPERS))
def test_the_parameters_are_as_many_as_in_the_originals(name):
    options, count = PAPERS[name]
    with torch.device("meta"):
        net = DDPMUNetSpec(**options).network(3)
    assert sum(p.numel() for p in net.parameters()) == count


@every_form
@pytest.mark.parametrize("channels, height, width", [(1, 8, 8), (3, 13, 7), (4, 1, 17)])
def test_any_size_and_channels_start_as_the_zero_function(name, channels, height, width):
    x, net = images(2, channels, height, width), small(name, channels)
    out = asked(net, x)
    assert out.shape == (2, SMALL[name].get("outputs", 1) * channels, height, width)
    assert not out.any()


@every_form
def test_any_size_is_that_of_the_padded_image_cropped(name):
    net, x = shaken(small(name)), images(2, 3, 13, 7)
    whole = F.pad(x, (0, -7 % net.multiple, 0, -13 % net.multiple))
    with torch.no_grad():
        assert torch.equal(asked(net, x), asked(net, whole)[..., :13, :7])


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


def test_adm_starts_deaf_to_augmentation():
    assert not small("adm of ImageNet-64", augment=9).augment_proj.weight.any()


@every_form
def test_every_weight_has_a_gradient(name):
    net = shaken(small(name, dropout=0.0)).train()
    label = torch.tensor([0, 1]) if net.classes else None
    asked(net, images(2, 3, 16, 16), label).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


@every_form
def test_evaluation_gives_the_same_bits_again_and_images_are_independent(name):
    net, x, told = shaken(small(name)), images(4, 3, 16, 16), torch.tensor([1.0, 50.0, 300.0, 999.0])
    with torch.no_grad():
        first = net(x, told)
        assert torch.equal(first, net(x, told))
        assert torch.allclose(first[1:3], net(x[1:3], told[1:3]), atol=1e-4)
        assert not torch.allclose(first[0], net(x, told.flip(0))[0], atol=1e-3)


def test_a_class_is_told_to_its_image_and_none_is_the_null_class():
    net, x = shaken(small("adm of ImageNet-64")), images(3, 3, 8, 8)
    told = torch.tensor([5.0, 5.0, 5.0])
    with torch.no_grad():
        null, some = net(x, told), net(x, told, torch.tensor([7, -1, 999]))
    assert torch.equal(null[1], some[1])
    assert not torch.allclose(null[0], some[0], atol=1e-3)
    assert not torch.allclose(null[2], some[2], atol=1e-3)


def test_no_augmentation_is_nine_zeros():
    net, x, told = shaken(small("ddpm++")), images(2, 3, 8, 8), torch.tensor([5.0, 9.0])
    with torch.no_grad():
        assert torch.equal(net(x, told), net(x, told, None, torch.zeros(2, 9)))
        other = net(x, told, None, torch.tensor([[0.0] * 9, [0.0] * 8 + [1.0]]))
    assert torch.equal(net(x, told)[0], other[0])
    assert not torch.allclose(net(x, told)[1], other[1], atol=1e-3)


def test_dropout_is_for_training_only():
    net, x, told = shaken(small("ddpm", dropout=0.5)), images(2, 3, 8, 8), torch.tensor([5.0, 9.0])
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        assert torch.equal(net(x, told), net(x, told))
        net.train()
        assert not torch.allclose(net(x, told), net(x, told), atol=1e-3)


@every_form
def test_the_path_of_the_image_at_full_resolution_stays_float32_under_autocast(name):
    net, x = shaken(small(name)), images(2, 3, 16, 16)
    full = [stage for stages in (net.down[0], net.up[-1]) for stage in stages]
    with torch.no_grad():
        for stage in full:
            stage.block.conv2.weight.zero_()
            stage.block.conv2.bias.zero_()
        # What comes from the levels below is cut off.
        net.up[-1][0].block.shortcut.weight[:, : net.up[-2][-1].block.conv2.out_channels] = 0
        plain = asked(net, x)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = asked(net, x)
    assert plain.std() > 0.01
    assert rounded.dtype == torch.float32
    assert torch.allclose(plain, rounded, rtol=0, atol=1e-5 * plain.abs().max().item())


@every_form
def test_only_full_resolution_pays_for_exactness(name):
    net = small(name)
    exact = {key for key, module in net.named_modules() if isinstance(module, ExactConv2d)}
    last = len(net.up) - 1
    assert {"in_conv", "out_conv"} <= exact
    assert all(key.startswith(("in_conv", "out_conv", "down.0.", f"up.{last}.")) for key in exact)


# Against diffusers, weight by weight.

DOWN, UP = ("AttnDownBlock2D", "DownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")


def theirs(spec, channels=3, **options):
    down = [DOWN[0] if attend else DOWN[1] for attend in spec.attention]
    up = [UP[0] if attend else UP[1] for attend in reversed(spec.attention)]
    made_of = {
        "sample_size": 16,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": spec.widths,
        "down_block_types": down,
        "up_block_types": up,
        "layers_per_block": spec.blocks,
        "norm_num_groups": spec.groups,
        "norm_eps": spec.eps,
        "attention_head_dim": spec.head,
    }
    return made(lambda: diffusers.UNet2DModel(**{**made_of, **options})).eval()


def the_same(spec, other, rename=lambda name: name, sizes=((16, 16), (8, 24))):
    """Our network and theirs with the same random weights, on images and indices."""
    net = shaken(made(lambda: spec.network(3)))
    other.load_state_dict({rename(name): value for name, value in to_diffusers(net.state_dict()).items()})
    index = torch.tensor([0, 1, 500, 999])
    for height, width in sizes:
        x = images(4, 3, height, width)
        with torch.no_grad():
            found, wanted = net(x, index.float()), other(x, index).sample
        assert wanted.std() > 0.1
        assert torch.allclose(found, wanted, rtol=0, atol=1e-5 * max(1.0, wanted.std().item()))


@pytest.mark.parametrize("head", [None, 8])
@pytest.mark.parametrize("attention", [(F_, T_, F_), (T_, F_, T_)])
def test_it_is_the_ddpm_of_diffusers(attention, head):
    spec = DDPMUNetSpec(width=16, multipliers=(1, 2, 2), blocks=2, attention=attention, head=head, groups=8)
    the_same(spec, theirs(spec, freq_shift=1, flip_sin_to_cos=False, downsample_padding=0))


def test_improved_ddpm_and_adm_are_those_of_diffusers_where_it_has_them():
    """Scale and shift, padding on both sides, cosines first; then blocks that resample, on every level."""
    form = {
        "width": 16,
        "multipliers": (1, 2, 3),
        "blocks": 2,
        "attention": (F_, T_, T_),
        "head": 8,
        "groups": 8,
    }
    spec = DDPMUNetSpec(**form, **IDDPM)
    shared = {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8}
    the_same(spec, theirs(spec, **shared))
    spec = DDPMUNetSpec(**{**form, "attention": (T_, T_, T_)}, **{**IDDPM, "resample": "box"})
    blocks = theirs(spec, **shared, downsample_type="resnet", upsample_type="resnet")
    resnet = lambda name: name.replace("samplers.0.conv.", "samplers.0.")
    the_same(spec, blocks, resnet)


# What diffusers has not, from the description of the papers, in float64 on plain weights.


def convolved(x, layer, **options):
    return F.conv2d(x, layer.weight.double(), layer.bias.double(), **options)


def normed(x, norm):
    grouped = x.reshape(len(x), norm.num_groups, -1)
    spread = (grouped.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    x = ((grouped - grouped.mean(-1, keepdim=True)) / spread).reshape(x.shape)
    return x * norm.weight.double()[:, None, None] + norm.bias.double()[:, None, None]


def swish(x):
    return x * torch.sigmoid(x)


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


def score_block(x, block, told, resize=lambda x: x):
    h = convolved(resize(swish(normed(x, block.norm1))), block.conv1, padding=1)
    shift = told @ block.time_proj.weight.double().T + block.time_proj.bias.double()
    h = convolved(swish(normed(h + shift[:, :, None, None], block.norm2)), block.conv2, padding=1)
    straight = convolved(resize(x), block.shortcut) if hasattr(block.shortcut, "weight") else resize(x)
    return (straight + h) / math.sqrt(2)


def score_attention(x, attend):
    b, c, h, w = x.shape
    q, k, v = convolved(normed(x, attend.norm), attend.qkv).flatten(2).chunk(3, dim=1)
    weights = (q.transpose(1, 2) @ k / math.sqrt(c)).softmax(-1)
    return (x + convolved((v @ weights.transpose(1, 2)).reshape(b, c, h, w), attend.proj)) / math.sqrt(2)


@pytest.mark.parametrize("name", ["ddpm++", "ncsn++"])
def test_the_score_networks_are_those_described_layer_by_layer(name):
    """Song et al. 2021b, appendix H: two levels, so that the order and place of every skip matter."""
    net = shaken(small(name, multipliers=(2, 2), attention=(F_, T_), augment=9))
    taps, pad = ([1.0, 1.0], 0) if name == "ddpm++" else ([1.0, 3.0, 3.0, 1.0], 1)
    down, up = lambda x: smaller(x, taps, pad), lambda x: larger(x, taps, pad)
    x, index, augment = images(2, 3, 8, 12), torch.tensor([0.3, 1.4]), normal(2, 9, seed=2).float()
    with torch.no_grad():
        position = net.embedding(index).double() + augment.double() @ net.augment_proj.weight.double().T
        told = swish(position @ net.time_mlp[0].weight.double().T + net.time_mlp[0].bias.double())
        told = swish(told @ net.time_mlp[2].weight.double().T + net.time_mlp[2].bias.double())
        entered = convolved(x.double(), net.in_conv, padding=1)
        first = score_block(entered, net.down[0][0].block, told)
        shrunk = score_block(first, net.downsample[0], told, down)
        if name == "ncsn++":
            # The image gets the zeros of convolution and filter at once, so that the filter needs no others.
            image = smaller(convolved(x.double(), net.pyramid[0][0], padding=1 + pad), taps, 0)
            shrunk = (shrunk + image) / math.sqrt(2)
        second = score_attention(score_block(shrunk, net.down[1][0].block, told), net.down[1][0].attention)
        h = score_attention(score_block(second, net.middle[0].block, told), net.middle[0].attention)
        h = score_block(h, net.middle[1].block, told)
        h = score_block(torch.cat([h, second], 1), net.up[0][0].block, told)
        h = score_block(torch.cat([h, shrunk], 1), net.up[0][1].block, told)
        h = score_attention(h, net.up[0][1].attention)
        h = score_block(h, net.upsample[0], told, up)
        h = score_block(torch.cat([h, first], 1), net.up[1][0].block, told)
        h = score_block(torch.cat([h, entered], 1), net.up[1][1].block, told)
        wanted = convolved(swish(normed(h, net.out_norm)), net.out_conv, padding=1)
        found = net(x, index, None, augment).double()
    assert wanted.std() > 0.1
    assert torch.allclose(found, wanted, rtol=0, atol=1e-4 * wanted.std().item())


@pytest.mark.parametrize("blur, taps, pad", [(False, [1.0, 1.0], 0), (True, [1.0, 3.0, 3.0, 1.0], 1)])
def test_filters_halve_and_double_and_keep_the_mean_of_what_is_inside(blur, taps, pad):
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
        ({"pyramid": True}, "net.pyramid needs net.resample box or blur, got same"),
    ],
)
def test_impossible_networks_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        DDPMUNetSpec(**options)
