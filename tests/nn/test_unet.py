import pytest
import torch
from torch.nn import functional as F

from ddim.nn.blocks import Attention
from ddim.nn.unet import Block, ChannelNorm, UNetSpec, channel_attention
from oracles import made, normal, shaken, uniform

FORMS = [
    {"widths": (16, 24), "down": (1, 2), "up": (2, 1), "attention": (False, True)},
    {"widths": (8,), "down": (0,), "up": (2,), "attention": (True,)},
    {"widths": (8, 16, 8), "down": (0, 1, 1), "up": (1, 0, 1), "attention": (False, False, False)},
]
every_form = pytest.mark.parametrize("form", FORMS, ids=str)


def small(form, channels=3):
    return made(lambda: UNetSpec(**form, embedding=16).network(channels))


def images(*shape):
    return normal(*shape, dtype=torch.float32)


@every_form
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("height, width", [(1, 1), (8, 8), (13, 7), (24, 40)])
def test_any_size_and_channels_start_as_the_zero_function(form, channels, height, width):
    x = images(2, channels, height, width)
    out = small(form, channels)(x, torch.tensor([0.1, 0.9]))
    assert out.shape == x.shape
    assert not out.any()


@every_form
def test_any_size_is_that_of_the_padded_image_cropped(form):
    net, x, told = shaken(small(form)), images(2, 3, 13, 7), torch.tensor([0.1, 0.9])
    multiple = 2 ** (len(form["widths"]) - 1)
    whole = torch.zeros(2, 3, -(-13 // multiple) * multiple, -(-7 // multiple) * multiple)
    whole[..., :13, :7] = x
    with torch.no_grad():
        assert torch.equal(net(x, told), net(whole, told)[..., :13, :7])


@every_form
def test_evaluation_gives_the_same_bits_again_and_images_are_independent(form):
    net, x, told = shaken(small(form)), images(4, 3, 12, 12), uniform(4).float()
    with torch.no_grad():
        first = net(x, told)
        assert torch.equal(first, net(x, told))
        assert torch.allclose(first[1:3], net(x[1:3], told[1:3]), atol=1e-4)
        assert not torch.allclose(first[0], net(x, told.flip(0))[0], atol=1e-3)


@every_form
def test_every_weight_has_a_gradient(form):
    net = shaken(small(form)).train()
    net(images(2, 3, 12, 12), uniform(2).float()).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


@every_form
def test_the_path_of_the_image_stays_float32_under_autocast(form):
    net, x, told = shaken(small(form)), images(2, 3, 12, 12), torch.tensor([0.1, 0.9])
    with torch.no_grad():
        # What is added to the path at full resolution may be rounded, and is silenced.
        branches = [block.conv2 for level in (net.down[0], net.up[0]) for block in level.blocks]
        branches += [level.attention.proj for level in (net.up[0],) if isinstance(level.attention, Attention)]
        for branch in branches + list(net.upsample[:1]):
            branch.weight.zero_()
            branch.bias.zero_()
        plain = net(x, told)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = net(x, told)
    assert plain.std() > 0.01
    assert rounded.dtype == torch.float32
    assert torch.allclose(plain, rounded, rtol=0, atol=1e-6 * plain.abs().max().item())


def convolved(x, layer, **options):
    return F.conv2d(x, layer.weight.double(), layer.bias.double(), **options)


def normed(x, norm):
    mean, spread = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    x = (x - mean) / (spread + 1e-5).sqrt()
    return x * norm.weight.double()[:, None, None] + norm.bias.double()[:, None, None]


def swish(x):
    return x * torch.sigmoid(x)


def staged(x, stage, told):
    for block in stage.blocks:
        h = convolved(swish(normed(x, block.norm)), block.conv1, padding=1)
        both = told @ block.time_proj.weight.double().T + block.time_proj.bias.double()
        c = x.shape[1]
        h = h * (1 + both[:, :c, None, None]) + both[:, c:, None, None]
        x = x + convolved(swish(h), block.conv2, padding=1)
    return stage.attention(x.float()).double() if isinstance(stage.attention, Attention) else x


def test_the_network_is_the_one_described_layer_by_layer():
    """In float64, from weights alone: three sizes, so that order and place of every skip matter."""
    form = {
        "widths": (8, 16, 24),
        "down": (1, 2, 1),
        "up": (2, 1, 1),
        "attention": (False, True, False),
    }
    net, x, value = shaken(small(form)), images(2, 3, 8, 12), uniform(2).float()
    with torch.no_grad():
        told = net.time_mlp(net.embedding(value)).double()
        first = staged(convolved(x.double(), net.in_conv, padding=1), net.down[0], told)
        second = staged(convolved(first, net.downsample[0], stride=2), net.down[1], told)
        third = staged(convolved(second, net.downsample[1], stride=2), net.down[2], told)
        h = staged(third, net.up[2], told)
        for skip, grow, stage in ((second, net.upsample[1], net.up[1]), (first, net.upsample[0], net.up[0])):
            # Each pixel becomes 2x2 pixels, each by a matrix of its own.
            wider = torch.einsum("bchw,cdij->bdhiwj", h, grow.weight.double()).flatten(2, 3).flatten(3, 4)
            h = staged(skip + wider + grow.bias.double()[:, None, None], stage, told)
        gain = 1 + told @ net.out_gain.weight.double().T + net.out_gain.bias.double()
        wanted = convolved(h * gain[:, :, None, None], net.out_conv, padding=1)
        assert wanted.std() > 0.1
        assert torch.allclose(net(x, value).double(), wanted, rtol=0, atol=1e-4 * wanted.std().item())


def test_a_block_starts_as_the_identity_and_listens():
    block, x = made(lambda: Block(16, 4)), images(2, 16, 5, 5)
    assert torch.equal(block(x, images(2, 4)), x)
    shaken(block)
    assert not torch.allclose(block(x, images(2, 4)), block(x, -images(2, 4)), atol=1e-2)


@pytest.mark.parametrize("channels", [8, 40, 64, 104, 168, 192])
def test_attention_works_at_any_width_and_does_not_know_where_pixels_are(channels):
    attention, x = shaken(made(lambda: channel_attention(channels))), images(2, channels, 3, 4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffle = lambda image: image.flatten(2)[:, :, order].reshape(image.shape)
    with torch.no_grad():
        assert torch.allclose(attention(shuffle(x)), shuffle(attention(x)), atol=1e-4)
        assert attention.heads == max(n for n in range(1, max(1, channels // 64) + 1) if channels % n == 0)


def test_attention_is_that_of_the_paper_head_by_head():
    """Vaswani et al. 2017, eq. 1, on each head's slice of queries, keys and values."""
    attention, x = shaken(made(lambda: channel_attention(128))), images(2, 128, 3, 4)
    with torch.no_grad():
        pixels = F.layer_norm(
            x.flatten(2).transpose(1, 2), (128,), attention.norm.weight, attention.norm.bias
        )
        q, k, v = (
            pixels @ w.T + b
            for w, b in zip(
                attention.qkv.weight[:, :, 0, 0].chunk(3), attention.qkv.bias.chunk(3), strict=True
            )
        )
        heads = []
        for part in (slice(0, 64), slice(64, 128)):
            scores = q[..., part] @ k[..., part].transpose(1, 2) / 64**0.5
            heads.append(scores.softmax(-1) @ v[..., part])
        mixed = torch.cat(heads, -1) @ attention.proj.weight[:, :, 0, 0].T + attention.proj.bias
        assert torch.allclose(attention(x), x + mixed.transpose(1, 2).reshape(x.shape), atol=1e-4)


def test_a_norm_knows_one_pixel_at_a_time():
    norm, x = ChannelNorm(16), images(2, 16, 3, 4)
    found = norm(x)
    assert torch.allclose(found.mean(1), torch.zeros(2, 3, 4), atol=1e-6)
    assert torch.allclose(found.square().mean(1), torch.ones(2, 3, 4), atol=1e-3)
    assert torch.allclose(found[1, :, 2, 1], norm(x[1:, :, 2:, 1:2])[0, :, 0, 0], atol=1e-6)


def test_labels_of_augmentation_are_heard_and_none_of_them_are_zeros():
    form = FORMS[0]
    net = shaken(made(lambda: UNetSpec(**form, embedding=16, augment=9).network(3)))
    x, told = images(2, 3, 12, 12), torch.tensor([0.1, 0.9])
    with torch.no_grad():
        plain = net(x, told)
        assert torch.equal(net(x, told, augment=torch.zeros(2, 9)), plain)
        for k in range(9):
            assert not torch.allclose(net(x, told, augment=torch.eye(9)[[k, k]]), plain, atol=1e-4)


def test_what_is_told_beside_the_level_is_as_loud_as_the_level():
    net = made(lambda: UNetSpec(**FORMS[0], embedding=16, augment=9, classes=10).network(3))
    level = net.embedding(uniform(50).float()).norm(dim=1).mean().item()
    for told in (net.augment_proj.weight.T, net.class_embedding.weight):
        assert 0.8 * level < told.norm(dim=1).mean() < 2 * level


def test_a_network_that_is_told_of_none_is_the_one_it_was():
    assert small(FORMS[0]).state_dict().keys() == {
        name
        for name in made(lambda: UNetSpec(**FORMS[0], embedding=16, augment=9).network(3)).state_dict()
        if not name.startswith("augment_proj")
    }
