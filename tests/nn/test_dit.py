import math
from dataclasses import replace

import pytest
import torch

from ddim.errors import UserError
from ddim.nn.dit import DiTSpec
from oracles import shaken, uniform
from small_nets import DITS, build, check_float32_path, images, projected, silence, swish

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
"""Width, depth and heads of the paper's models (Peebles & Xie 2023, table 1)."""


@pytest.mark.parametrize(
    "name, millions",
    # Peebles & Xie 2023, table 4, for latents of 4 channels with 1000 classes and a learned variance.
    [
        *(("S/8", 33), ("S/4", 33), ("S/2", 33), ("B/8", 131), ("B/4", 130), ("B/2", 130)),
        *(("L/8", 459), ("L/4", 458), ("L/2", 458), ("XL/8", 676), ("XL/4", 675), ("XL/2", 675)),
    ],
)
def test_the_parameters_are_as_many_as_in_the_paper(name, millions):
    size, patch = name.split("/")
    with torch.device("meta"):
        net = DiTSpec(int(patch), *SIZES[size], classes=1000, outputs=2).network(4)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6) == millions


def sin_cos(place, count):
    """Vaswani et al. 2017, section 3.5: `count` sines, then as many cosines, of one place."""
    angles = [place * 10_000 ** (-k / (count - 1)) for k in range(count)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


def normed(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()


def gelu(x):
    """The tanh approximation of Hendrycks & Gimpel 2016."""
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attended(x, block):
    """Vaswani et al. 2017, eq. 1, on each head's slice of queries, keys and values."""
    size = x.shape[-1] // block.heads
    q, k, v = projected(x, block.qkv).chunk(3, -1)
    heads = []
    for head in range(block.heads):
        part = slice(head * size, (head + 1) * size)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / size**0.5
        heads.append(scores.softmax(-1) @ v[..., part])
    return projected(torch.cat(heads, -1), block.proj)


def test_the_network_equals_its_description_layer_by_layer():
    """In float64, from weights alone, patch by patch: Peebles & Xie 2023, section 3.2 and figure 3."""
    spec = replace(DITS["dit of labels"], patch=2)
    net, x, value = shaken(build(spec)), images(2, 3, 4, 6), uniform(2).float()
    label, augment = torch.tensor([2, -1]), images(2, 9, seed=5)
    with torch.no_grad():
        c = net.time_mlp(net.embedding(value)) + augment @ net.augment_proj.weight.T
        c = swish(c + net.class_embedding.weight[[2, 3]]).double()  # the last vector is that of no class
        tokens = []
        for row in range(2):
            for column in range(3):
                patch = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].double().flatten(1)
                token = patch @ net.in_proj.weight.double().flatten(1).T + net.in_proj.bias.double()
                tokens.append(token + torch.tensor(sin_cos(row, 4) + sin_cos(column, 4)))
        x_ = torch.stack(tokens, 1)
        for block in net.blocks:
            each = projected(c, block.modulation)[:, None].chunk(6, -1)
            x_ = x_ + each[2] * attended(normed(x_) * (1 + each[1]) + each[0], block)
            hidden = gelu(projected(normed(x_) * (1 + each[4]) + each[3], block.mlp[0]))
            x_ = x_ + each[5] * projected(hidden, block.mlp[2])
        shift, scale = projected(c, net.out_modulation)[:, None].chunk(2, -1)
        last = (normed(x_) * (1 + scale) + shift) @ net.out_proj.weight.double().flatten(1).T
        last = last + net.out_proj.bias.double()
        found = net(x, value, label, augment).double()
        assert found.std() > 0.1
        for k in range(6):
            row, column = divmod(k, 3)
            patch = found[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten(1)
            assert torch.allclose(patch, last[:, k], rtol=0, atol=1e-4 * found.std().item())


def test_a_block_is_initially_the_identity_and_then_depends_on_the_conditioning():
    block, tokens = build(DITS["dit"]).blocks[0], images(2, 5, 16)
    assert torch.equal(block(tokens, images(2, 16, seed=1)), tokens)
    shaken(block)
    assert not torch.allclose(
        block(tokens, images(2, 16, seed=1)), block(tokens, images(2, 16, seed=2)), atol=1e-2
    )


def test_the_path_of_the_image_stays_float32_under_autocast():
    net = shaken(build(DITS["dit"]))
    for block in net.blocks:
        silence(block.proj)
        silence(block.mlp[2])
    # The last norm is shifted and scaled by the conditioning alone.
    silence(net.out_modulation)
    check_float32_path(net, images(2, 3, 12, 12), 1e-6)


def test_the_product_of_two_positions_depends_on_their_distance_alone():
    """cos(a - b) = cos a cos b + sin a sin b, summed over the frequencies of rows and columns."""
    places = build(DITS["dit"])._positions(6, 7).double().reshape(6, 7, 16)
    product = lambda a, b: (places[a] * places[b]).sum().item()
    assert product((1, 2), (3, 5)) == pytest.approx(product((3, 1), (5, 4)), abs=1e-5)
    assert product((4, 4), (4, 4)) == pytest.approx(8)
    assert max(product((4, 4), (4, column)) for column in range(7) if column != 4) < 7.9
    assert not torch.allclose(places[1, 2], places[2, 1])


def test_a_label_of_none_is_a_class_of_its_own():
    net, x, value = shaken(build(DITS["dit of labels"])), images(2, 3, 8, 8), uniform(2).float()
    with torch.no_grad():
        none = net(x, value)
        assert torch.equal(net(x, value, torch.tensor([-1, -1])), none)
        outputs = [none, *(net(x, value, torch.full((2,), k)) for k in range(3))]
    for k, output in enumerate(outputs):
        assert not any(torch.allclose(output, other, atol=1e-3) for other in outputs[:k])


def test_every_augmentation_label_changes_the_output_and_zeros_do_not():
    net, x, value = shaken(build(DITS["dit of labels"])), images(2, 3, 8, 8), uniform(2).float()
    with torch.no_grad():
        plain = net(x, value)
        assert torch.equal(net(x, value, augment=torch.zeros(2, 9)), plain)
        for k in range(9):
            assert not torch.allclose(net(x, value, augment=torch.eye(9)[[k, k]]), plain, atol=1e-4)


def test_class_and_augmentation_vectors_are_as_long_as_the_embedded_conditioning():
    net = build(DiTSpec(depth=1, augment=9, classes=10))
    with torch.no_grad():
        time = net.time_mlp(net.embedding(2 * uniform(50).float() - 1)).norm(dim=1).mean().item()
    for vectors in (net.augment_proj.weight.T, net.class_embedding.weight):
        assert 0.8 * time < vectors.norm(dim=1).mean() < 1.25 * time


def test_compiled_code_gives_the_same_output_at_any_memory_format():
    net, x, value = shaken(build(DITS["dit"])), images(2, 3, 8, 12), uniform(2).float()
    wanted = net(x, value)
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    net.to(memory_format=torch.channels_last)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        assert torch.allclose(compiled(given, value), wanted, atol=1e-5)
        assert torch.allclose(net(given, value), wanted, atol=1e-5)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"patch": 0}, r"net\.patch must be above 0, got 0"),
        ({"mlp_ratio": 0.0}, r"net\.mlp_ratio must be above 0"),
        ({"width": 18, "heads": 2}, r"net\.width must be a multiple of 4 and of net\.heads, got 18 and 2"),
        ({"width": 64, "heads": 3}, r"net\.width must be a multiple of 4 and of net\.heads, got 64 and 3"),
        ({"classes": -1}, r"net\.classes and net\.augment must be at least 0, got -1, 0"),
    ],
)
def test_impossible_options_are_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        DiTSpec(**wrong)
