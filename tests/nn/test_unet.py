from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ddim.nn.blocks import Attention
from ddim.nn.unet import Block, ChannelNorm, UNetSpec, build_attention
from oracles import made, shaken, uniform
from small_nets import UNETS, build, check_float32_path, convolved, images, projected, silence, swish


@pytest.mark.parametrize("name", UNETS)
def test_the_path_of_the_image_stays_float32_under_autocast(name):
    net, x, embedded = shaken(build(UNETS[name])), images(2, 3, 12, 12), torch.tensor([0.1, 0.9])
    # The branches added at full resolution may be rounded; they are set to zero.
    branches = [block.conv2 for stage in (net.down[0], net.up[0]) for block in stage.blocks]
    branches += [stage.attention.proj for stage in (net.up[0],) if isinstance(stage.attention, Attention)]
    for branch in branches + list(net.upsample[:1]):
        silence(branch)
    check_float32_path(net, x, 1e-6, embedded)


def normed(x, norm):
    mean, spread = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    x = (x - mean) / (spread + 1e-5).sqrt()
    return x * norm.weight.double()[:, None, None] + norm.bias.double()[:, None, None]


def staged(x, stage, embedded):
    for block in stage.blocks:
        h = convolved(swish(normed(x, block.norm)), block.conv1, padding=1)
        both = projected(embedded, block.time_proj)
        c = x.shape[1]
        h = h * (1 + both[:, :c, None, None]) + both[:, c:, None, None]
        x = x + convolved(swish(h), block.conv2, padding=1)
    return stage.attention(x.float()).double() if isinstance(stage.attention, Attention) else x


def test_the_network_equals_its_description_layer_by_layer():
    """In float64, from weights alone: three sizes, so that order and place of every skip matter."""
    spec = UNetSpec((8, 16, 24), (1, 2, 1), (2, 1, 1), (False, True, False), embedding=16)
    net, x, value = shaken(build(spec)), images(2, 3, 8, 12), uniform(2).float()
    with torch.no_grad():
        embedded = net.time_mlp(net.embedding(value)).double()
        first = staged(convolved(x.double(), net.in_conv, padding=1), net.down[0], embedded)
        second = staged(convolved(first, net.downsample[0], stride=2), net.down[1], embedded)
        third = staged(convolved(second, net.downsample[1], stride=2), net.down[2], embedded)
        h = staged(third, net.up[2], embedded)
        for skip, grow, stage in ((second, net.upsample[1], net.up[1]), (first, net.upsample[0], net.up[0])):
            # Each pixel becomes 2x2 pixels, each by a matrix of its own.
            wider = torch.einsum("bchw,cdij->bdhiwj", h, grow.weight.double()).flatten(2, 3).flatten(3, 4)
            h = staged(skip + wider + grow.bias.double()[:, None, None], stage, embedded)
        gain = 1 + projected(embedded, net.out_gain)
        wanted = convolved(h * gain[:, :, None, None], net.out_conv, padding=1)
        assert wanted.std() > 0.1
        assert torch.allclose(net(x, value).double(), wanted, rtol=0, atol=1e-4 * wanted.std().item())


def test_a_block_starts_as_the_identity_and_then_depends_on_the_embedding():
    block, x = made(lambda: Block(16, 4)), images(2, 16, 5, 5)
    assert torch.equal(block(x, images(2, 4)), x)
    shaken(block)
    assert not torch.allclose(block(x, images(2, 4)), block(x, -images(2, 4)), atol=1e-2)


@pytest.mark.parametrize("channels", [8, 40, 64, 104, 168, 192])
def test_attention_works_at_any_width_and_ignores_the_order_of_pixels(channels):
    attention, x = shaken(made(lambda: build_attention(channels))), images(2, channels, 3, 4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffle = lambda image: image.flatten(2)[:, :, order].reshape(image.shape)
    with torch.no_grad():
        assert torch.allclose(attention(shuffle(x)), shuffle(attention(x)), atol=1e-4)
        assert attention.heads == max(n for n in range(1, max(1, channels // 64) + 1) if channels % n == 0)


def test_attention_is_that_of_the_paper_head_by_head():
    """Vaswani et al. 2017, eq. 1, on each head's slice of queries, keys and values."""
    attention, x = shaken(made(lambda: build_attention(128))), images(2, 128, 3, 4)
    norm, qkv, proj = attention.norm, attention.qkv, attention.proj
    with torch.no_grad():
        pixels = F.layer_norm(x.flatten(2).transpose(1, 2), (128,), norm.weight, norm.bias)
        q, k, v = (pixels @ qkv.weight[:, :, 0, 0].T + qkv.bias).chunk(3, -1)
        heads = []
        for part in (slice(0, 64), slice(64, 128)):
            scores = q[..., part] @ k[..., part].transpose(1, 2) / 64**0.5
            heads.append(scores.softmax(-1) @ v[..., part])
        mixed = torch.cat(heads, -1) @ proj.weight[:, :, 0, 0].T + proj.bias
        assert torch.allclose(attention(x), x + mixed.transpose(1, 2).reshape(x.shape), atol=1e-4)


def test_the_channel_norm_of_a_pixel_depends_on_that_pixel_only():
    norm, x = ChannelNorm(16), images(2, 16, 3, 4)
    found = norm(x)
    assert torch.allclose(found.mean(1), torch.zeros(2, 3, 4), atol=1e-6)
    assert torch.allclose(found.square().mean(1), torch.ones(2, 3, 4), atol=1e-3)
    assert torch.allclose(found[1, :, 2, 1], norm(x[1:, :, 2:, 1:2])[0, :, 0, 0], atol=1e-6)


def test_every_augmentation_label_changes_the_output_and_zeros_do_not():
    net = shaken(build(replace(UNETS["unet"], augment=9)))
    x, embedded = images(2, 3, 12, 12), torch.tensor([0.1, 0.9])
    with torch.no_grad():
        plain = net(x, embedded)
        assert torch.equal(net(x, embedded, augment=torch.zeros(2, 9)), plain)
        for k in range(9):
            assert not torch.allclose(net(x, embedded, augment=torch.eye(9)[[k, k]]), plain, atol=1e-4)


def test_class_and_augmentation_vectors_are_as_long_as_the_embedding():
    net = build(replace(UNETS["unet"], augment=9, classes=10))
    stage = net.embedding(uniform(50).float()).norm(dim=1).mean().item()
    for embedded in (net.augment_proj.weight.T, net.class_embedding.weight):
        assert 0.8 * stage < embedded.norm(dim=1).mean() < 2 * stage


def test_without_augmentation_labels_the_network_has_no_layer_for_them():
    plain, more = build(UNETS["unet"]), build(replace(UNETS["unet"], augment=9))
    assert plain.state_dict().keys() == more.state_dict().keys() - {"augment_proj.weight"}
