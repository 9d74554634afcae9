import pytest
import torch
from torch import nn

from ddim.nn.blocks import Exact, attended, doubled, opaque_doubled, padded, zeroed
from oracles import made, normal


def test_exact_gives_the_same_float32_bits_under_autocast():
    layer, plain = made(lambda: Exact(3, 5, 3, padding=1)), made(lambda: nn.Conv2d(3, 5, 3, padding=1))
    x = normal(2, 3, 6, 6, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, rounded = layer(x), plain(x)
        assert layer(x.bfloat16()).dtype == torch.float32
    assert torch.equal(found, plain(x))
    assert not torch.equal(rounded.float(), plain(x))


@pytest.mark.parametrize("bias", [True, False])
def test_zeroed_is_the_zero_function(bias):
    layer = zeroed(made(lambda: nn.Conv2d(3, 5, 3, bias=bias)))
    assert not layer(normal(1, 3, 4, 4, dtype=torch.float32)).any()


@pytest.mark.parametrize("height, width", [(1, 1), (8, 8), (9, 8), (7, 15), (16, 3)])
def test_any_size_is_padded_with_zeros_below_and_right_and_cropped(height, width):
    seen = []

    def net(x):
        seen.append(x)
        return 2 * x

    x = normal(2, 3, height, width)
    assert torch.equal(padded(x, 8, net), 2 * x)
    inner = seen[0]
    assert inner.shape[2] % 8 == inner.shape[3] % 8 == 0
    assert max(inner.shape[2] - height, inner.shape[3] - width) < 8
    assert inner.sum() == pytest.approx(x.sum().item())
    assert torch.equal(inner[..., :height, :width], x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (1, 1, 1, 1), (2, 16, 3, 5)])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of opcheck itself
def test_doubled_is_bilinear_forwards_and_backwards_seen_or_opaque(shape, kind, layout):
    x = normal(*shape, dtype=torch.float32).to(kind).contiguous(memory_format=layout)
    results = []
    for double in (doubled, opaque_doubled, lambda x: nn.functional.interpolate(x, None, 2, "bilinear")):
        entered = x.clone().requires_grad_()
        found = double(entered)
        (found * normal(*found.shape, dtype=torch.float32).to(kind)).sum().backward()
        results.append((found, entered.grad))
    for found, gradient in results[:2]:
        assert torch.equal(found, results[2][0])
        assert torch.equal(gradient, results[2][1])
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(opaque_doubled, (x.clone().requires_grad_(),), test_utils=checks)


def test_a_compiled_network_doubles_by_the_opaque_operation():
    seen = []

    def backend(graph, inputs):
        seen.extend(node.target for node in graph.graph.nodes)
        return graph.forward

    torch.compile(doubled, backend=backend)(normal(1, 2, 3, 4, dtype=torch.float32))
    assert torch.ops.ddim.doubled in seen or torch.ops.ddim.doubled.default in seen


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_that_of_the_paper_head_by_head(heads):
    """Vaswani et al. 2017, eq. 1, on each head's channels of queries, keys and values."""
    qkv = normal(2, 24, 3, 5)
    q, k, v = (part.flatten(2).chunk(heads, 1) for part in qkv.chunk(3, 1))
    size = (8 // heads) ** 0.5
    mixed = [
        c @ (a.transpose(1, 2) @ b / size).softmax(-1).transpose(1, 2)
        for a, b, c in zip(q, k, v, strict=True)
    ]
    assert torch.allclose(attended(qkv, heads), torch.cat(mixed, 1).reshape(2, 8, 3, 5))
