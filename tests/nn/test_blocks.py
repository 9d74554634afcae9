import pytest
import torch
from torch import nn

from ddim.nn.blocks import (
    Dropout,
    ExactConv2d,
    apply_padded,
    draw_mask,
    hash_mask,
    opaque_upsample_2x,
    self_attention,
    upsample_2x,
    zero_init,
)
from oracles import made, normal


def test_exact_gives_the_same_float32_bits_under_autocast():
    layer, plain = made(lambda: ExactConv2d(3, 5, 3, padding=1)), made(lambda: nn.Conv2d(3, 5, 3, padding=1))
    x = normal(2, 3, 6, 6, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, rounded = layer(x), plain(x)
        assert layer(x.bfloat16()).dtype == torch.float32
    assert torch.equal(found, plain(x))
    assert not torch.equal(rounded.float(), plain(x))


@pytest.mark.parametrize("bias", [True, False])
def test_zero_init_gives_the_zero_function(bias):
    layer = zero_init(made(lambda: nn.Conv2d(3, 5, 3, bias=bias)))
    assert not layer(normal(1, 3, 4, 4, dtype=torch.float32)).any()


@pytest.mark.parametrize("height, width", [(1, 1), (8, 8), (9, 8), (7, 15), (16, 3)])
def test_images_are_padded_with_zeros_below_and_right_and_cropped(height, width):
    seen = []

    def net(x):
        seen.append(x)
        return 2 * x

    x = normal(2, 3, height, width)
    assert torch.equal(apply_padded(net, x, 8), 2 * x)
    inner = seen[0]
    assert inner.shape[2] % 8 == inner.shape[3] % 8 == 0
    assert max(inner.shape[2] - height, inner.shape[3] - width) < 8
    assert inner.sum() == pytest.approx(x.sum().item())
    assert torch.equal(inner[..., :height, :width], x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (1, 1, 1, 1), (2, 16, 3, 5)])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_upsampling_equals_torchs_forwards_and_backwards(mode, shape, kind, layout):
    x = normal(*shape, dtype=torch.float32).to(kind).contiguous(memory_format=layout)
    results = []
    for double in (
        upsample_2x,
        opaque_upsample_2x,
        lambda x, mode: nn.functional.interpolate(x, None, 2, mode),
    ):
        entered = x.clone().requires_grad_()
        found = double(entered, mode)
        (found * normal(*found.shape, dtype=torch.float32).to(kind)).sum().backward()
        results.append((found, entered.grad))
    for found, gradient in results[:2]:
        assert torch.equal(found, results[2][0])
        assert torch.equal(gradient, results[2][1])


@pytest.mark.parametrize(
    "kind, layout",
    [
        (torch.float32, torch.channels_last),
        pytest.param(torch.float32, torch.contiguous_format, marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, torch.channels_last, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of opcheck itself
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_the_opaque_upsampling_keeps_the_rules_of_torchs_operations(mode, kind, layout):
    x = normal(2, 3, 4, 6, dtype=torch.float32).to(kind).contiguous(memory_format=layout)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(opaque_upsample_2x, (x.requires_grad_(), mode), test_utils=checks)


def test_a_compiled_network_upsamples_by_the_opaque_operation():
    seen = []

    def backend(graph, inputs):
        seen.extend(node.target for node in graph.graph.nodes)
        return graph.forward

    torch.compile(upsample_2x, backend=backend)(normal(1, 2, 3, 4, dtype=torch.float32))
    assert torch.ops.ddim.upsample_2x in seen or torch.ops.ddim.upsample_2x.default in seen


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_scales_what_it_keeps_and_drops_numbers_independently(p, layout):
    n = 40_000
    x = torch.ones(5, 40, 20, 10).contiguous(memory_format=layout).requires_grad_()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        found = Dropout(p)(x)
    found.backward(torch.full_like(found, 2.0))
    assert torch.equal(x.grad, 2 * found)
    dropped = (found == 0).double()
    assert found[found != 0].unique().numel() == 1
    assert found.max().item() == pytest.approx(1 / (1 - p), rel=1e-4)
    # In the order of the random numbers, each of which gives four entries.
    row = dropped.permute(0, 2, 3, 1).flatten()
    for lane in range(4):
        assert row[lane::4].mean().item() == pytest.approx(p, abs=4 * (p * (1 - p) / (n / 4)) ** 0.5)
    for lag in (1, 2, 3, 4, 5):
        both = ((row[lag:] - p) * (row[:-lag] - p)).mean().item() / (p * (1 - p))
        assert abs(both) < 4 / n**0.5


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 1, 1, 1), (1, 2, 1, 2), (1, 1, 5, 1), (2, 3, 4, 5)])
def test_dropout_works_at_any_size_and_in_training_only(shape):
    x = torch.ones(shape)
    torch.library.opcheck(draw_mask, (torch.tensor(7), torch.arange(shape[0]), list(shape), 2**15))
    with torch.random.fork_rng(devices=[]):
        assert Dropout(0.9)(x).shape == x.shape
        assert not Dropout(1.0)(x).any()
    for layer in (Dropout(0.9).eval(), Dropout(0.0)):
        assert torch.equal(layer(x), x)


@pytest.mark.parametrize("draw", [draw_mask, hash_mask])
def test_the_mask_of_an_image_depends_on_its_row_and_not_on_the_rest_of_the_batch(draw):
    seed, rows, shape = torch.tensor(2**32 - 2), torch.arange(6), [3, 4, 5]
    whole = draw(seed, rows, [6, *shape], 2**15)
    assert torch.equal(draw(seed, rows[1::2], [3, *shape], 2**15), whole[1::2])
    assert len({tuple(mask.flatten().tolist()) for mask in whole}) == 6
    assert not torch.equal(draw(torch.tensor(3), rows, [6, *shape], 2**15), whole)


def test_hashed_masks_are_as_random_as_drawn_ones():
    """The share of zeros, neighbours within an image, and equal places of neighbouring rows and seeds."""
    p, n = 0.25, 64 * 8 * 16 * 16
    zeros = [
        1 - hash_mask(torch.tensor(seed), torch.arange(64), [64, 8, 16, 16], 2**14).double()
        for seed in (5, 6)
    ]
    drops = zeros[0].permute(0, 2, 3, 1)
    assert drops.mean().item() == pytest.approx(p, abs=4 * (p * (1 - p) / n) ** 0.5)
    flat, other = drops.reshape(64, -1), zeros[1].permute(0, 2, 3, 1).reshape(64, -1)
    pairs = [(flat[:, lag:], flat[:, :-lag]) for lag in (1, 2, 3, 8, 128)]
    pairs += [(flat[1:], flat[:-1]), (flat, other)]
    for one, two in pairs:
        both = ((one - p) * (two - p)).mean().item() / (p * (1 - p))
        assert abs(both) < 4 / one.numel() ** 0.5


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is")  # of the compiler itself
def test_a_compiled_network_has_one_mask_per_layer_for_both_passes():
    one, two = Dropout(0.5), Dropout(0.5)
    x = torch.ones(2, 8, 8, 8, requires_grad=True)
    both = torch.compile(lambda x: torch.stack([one(x), two(x)]), backend="aot_eager_decomp_partition")
    with torch.random.fork_rng(devices=[]):
        found = both(x)
    assert not torch.equal(found[0], found[1])
    (gradient,) = torch.autograd.grad(found, x, torch.ones_like(found))
    assert torch.equal(gradient, found.sum(0))


@pytest.mark.parametrize("size", [(3, 5), (32, 32)], ids=["few pixels", "many"])
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize(("scores", "error"), [(1, 0.01), (4, 0.02), (9, 0.04)])
def test_attention_in_bf16_equals_float32_up_to_rounding_in_both_passes(scores, error, heads, size):
    """`scores` is their standard deviation. With few pixels, scores are rounded to 8 bits."""
    qkv = normal(2, 192, *size, dtype=torch.float32)
    qkv[:, :128] *= scores**0.5
    results = []
    for kind in (torch.float32, torch.bfloat16):
        entered = qkv.bfloat16().to(kind).requires_grad_()
        found = self_attention(entered, heads)
        (gradient,) = torch.autograd.grad(found, entered, normal(*found.shape, seed=1).to(kind))
        results.append((found.float(), gradient.float()))
    for exact, rounded in zip(*results, strict=True):
        assert (rounded - exact).norm() < error * exact.norm()


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_equals_the_formula_of_the_paper_head_by_head(heads):
    """Vaswani et al. 2017, eq. 1, on each head's channels of queries, keys and values."""
    qkv = normal(2, 24, 3, 5)
    q, k, v = (part.flatten(2).chunk(heads, 1) for part in qkv.chunk(3, 1))
    size = (8 // heads) ** 0.5
    mixed = [
        c @ (a.transpose(1, 2) @ b / size).softmax(-1).transpose(1, 2)
        for a, b, c in zip(q, k, v, strict=True)
    ]
    assert torch.allclose(self_attention(qkv, heads), torch.cat(mixed, 1).reshape(2, 8, 3, 5))
