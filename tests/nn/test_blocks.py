import pytest
import torch
from torch import nn

from ddim.nn.blocks import Exact, doubled, padded, zeroed
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
def test_doubled_is_bilinear_forwards_and_backwards(kind, layout):
    x = normal(2, 3, 4, 6, dtype=torch.float32).to(kind).contiguous(memory_format=layout)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, wanted = doubled(ours), nn.functional.interpolate(theirs, scale_factor=2, mode="bilinear")
    weight = normal(2, 3, 8, 12, dtype=torch.float32).to(kind)
    (found * weight).sum().backward()
    (wanted * weight).sum().backward()
    assert torch.equal(found, wanted)
    assert torch.equal(ours.grad, theirs.grad)
    torch.library.opcheck(doubled, (x.float().requires_grad_(),))
