import pytest
import torch
from torch.nn import functional as F

from ddim.nn.blocks import Dropout, draw_mask, hash_mask, opaque_upsample_2x, self_attention, upsample_2x
from oracles import made, normal


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (1, 1, 1, 1)])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_upsampling_equals_torchs_forwards_and_backwards(mode, shape, kind):
    x = normal(*shape, dtype=torch.float32).to(kind).contiguous(memory_format=torch.channels_last)
    results = []
    for double in (upsample_2x, opaque_upsample_2x, lambda x, mode: F.interpolate(x, None, 2, mode)):
        entered = x.clone().requires_grad_()
        found = double(entered, mode)
        (found * normal(*found.shape, dtype=torch.float32).to(kind)).sum().backward()
        results.append((found, entered.grad))
    for found, gradient in results[:2]:
        assert torch.equal(found, results[2][0])
        assert torch.equal(gradient, results[2][1])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of opcheck itself
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_the_operation_that_upsamples_keeps_torchs_rules(mode):
    x = normal(2, 3, 4, 6, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(opaque_upsample_2x, (x.requires_grad_(), mode), test_utils=checks)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_scales_what_it_keeps(p):
    x = torch.ones(5, 40, 20, 10).requires_grad_()
    found = made(lambda: Dropout(p)(x))
    found.backward(torch.full_like(found, 2.0))
    assert torch.equal(x.grad, 2 * found)
    assert found[found != 0].unique().numel() == 1
    assert found.max().item() == pytest.approx(1 / (1 - p), rel=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 2, 1, 2), (2, 3, 4, 5)])
def test_dropout_works_at_any_size_and_in_training_only(shape):
    x = torch.ones(shape)
    torch.library.opcheck(draw_mask, (torch.tensor(7), torch.arange(shape[0]), list(shape), 2**15))
    assert made(lambda: Dropout(0.9)(x)).shape == x.shape
    for layer in (Dropout(0.9).eval(), Dropout(0.0)):
        assert torch.equal(layer(x), x)


@pytest.mark.parametrize("draw", [draw_mask, hash_mask])
def test_the_mask_of_an_image_depends_on_its_row_and_not_on_the_rest_of_the_batch(draw):
    seed, rows, shape = torch.tensor(2**32 - 2), torch.arange(6), [3, 4, 5]
    whole = draw(seed, rows, [6, *shape], 2**15)
    assert torch.equal(draw(seed, rows[1::2], [3, *shape], 2**15), whole[1::2])
    assert len({tuple(mask.flatten().tolist()) for mask in whole}) == 6
    assert not torch.equal(draw(torch.tensor(3), rows, [6, *shape], 2**15), whole)


@pytest.mark.parametrize("draw", [draw_mask, hash_mask])
def test_masks_are_independent_between_places_images_and_seeds(draw):
    """The share of zeros, neighbours within an image, and equal places of neighbouring rows and seeds."""
    p, n = 0.25, 64 * 8 * 16 * 16
    masks = [draw(torch.tensor(seed), torch.arange(64), [64, 8, 16, 16], 2**14) for seed in (5, 6)]
    flat, other = (1 - mask.permute(0, 2, 3, 1).double().reshape(64, -1) for mask in masks)
    assert flat.mean().item() == pytest.approx(p, abs=4 * (p * (1 - p) / n) ** 0.5)
    pairs = [(flat[:, lag:], flat[:, :-lag]) for lag in (1, 2, 3, 4, 8, 128)]
    for one, two in [*pairs, (flat[1:], flat[:-1]), (flat, other)]:
        both = ((one - p) * (two - p)).mean().item() / (p * (1 - p))
        assert abs(both) < 4 / one.numel() ** 0.5


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is")  # of the compiler itself
def test_a_compiled_network_has_one_mask_per_layer_for_both_passes():
    one, two = Dropout(0.5), Dropout(0.5)
    x = torch.ones(2, 8, 8, 8, requires_grad=True)
    both = torch.compile(lambda x: torch.stack([one(x), two(x)]), backend="aot_eager_decomp_partition")
    found = made(lambda: both(x))
    assert not torch.equal(found[0], found[1])
    (gradient,) = torch.autograd.grad(found, x, torch.ones_like(found))
    assert torch.equal(gradient, found.sum(0))


@pytest.mark.parametrize("n", [15, 1024], ids=["few pixels", "many"])
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize(("scores", "error"), [(1, 0.01), (4, 0.02), (9, 0.04)])
def test_attention_in_bf16_equals_float32_up_to_rounding_in_both_passes(scores, error, heads, n):
    """`scores` is their standard deviation. With few pixels, scores are rounded to 8 bits."""
    qkv = normal(2, n, 192, dtype=torch.float32)
    qkv[..., :128] *= scores**0.5
    results = []
    for kind in (torch.float32, torch.bfloat16):
        entered = qkv.bfloat16().to(kind).requires_grad_()
        found = self_attention(entered, heads)
        (gradient,) = torch.autograd.grad(found, entered, normal(*found.shape, seed=1).to(kind))
        results.append((found.float(), gradient.float()))
    for exact, rounded in zip(*results, strict=True):
        assert (rounded - exact).norm() < error * exact.norm()
