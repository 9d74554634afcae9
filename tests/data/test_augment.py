"""Augmentation transforms images exactly as its labels say."""

import math

import pytest
import torch
from hypothesis import given, strategies as st

from ddim.data.augment import LABELS, Augment, apply_transformations, prepare_transformations
from ddim.errors import UserError
from oracles import normal

MIRRORED, FLIPPED, SCALED, COS, SIN, STRETCHED, SKEWED, RIGHT, DOWN = torch.eye(LABELS, dtype=torch.float64)
QUARTER, HALF = SIN - COS, -2 * COS
"""Rotations by 90 and by 180 degrees, counter-clockwise."""

X = normal(3, 2, 16, 16)
every_size = pytest.mark.parametrize("height, width", [(16, 16), (12, 20), (9, 15)])


INSIDE = (..., slice(12, 36), slice(12, 36))
"""The part of images of 48 pixels that the reflected border does not reach."""

NEAR = {"rtol": 0, "atol": 0.012}
"""Tolerance of a bicubic resampling, for a cloud of standard deviation 3 and height 1."""


def apply_augmentation(x, labels):
    """Return images (B, C, H, W), transformed by labels (B, 9)."""
    return apply_transformations(x, prepare_transformations(labels, *x.shape[2:]))


def repeated(labels, n=3):
    """Return the same labels for n images."""
    return labels.expand(n, LABELS)


def smooth(height=48, width=48, centre=(0.0, 0.0), spread=(4.0, 4.0), angle=0.0):
    """Return an image (1, 1, H, W) of a cloud, with its centre and standard deviations as (right, down).

    The centre is relative to the middle; the cloud is rotated counter-clockwise by the angle.
    """
    down, right = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in (height, width)), indexing="ij"
    )
    right, down = right - centre[0], down - centre[1]
    along = math.cos(angle) * right - math.sin(angle) * down
    across = math.sin(angle) * right + math.cos(angle) * down
    return (-((along / spread[0]) ** 2) / 2 - (across / spread[1]) ** 2 / 2).exp()[None, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_labels_keep_every_bit(dtype):
    x = X.to(dtype).contiguous(memory_format=torch.channels_last)
    assert torch.equal(apply_augmentation(x, torch.zeros(3, LABELS)), x)
    some = torch.stack([torch.zeros(LABELS).double(), QUARTER + SCALED, torch.zeros(LABELS).double()])
    found = apply_augmentation(x, some)
    assert torch.equal(x, X.to(dtype))
    assert torch.equal(found[[0, 2]], x[[0, 2]])
    assert not torch.equal(found[1], x[1])
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)


@every_size
def test_mirroring_moves_pixels_and_undoes_itself(height, width):
    x = normal(2, 3, height, width)
    for label, axis in ((MIRRORED, 3), (FLIPPED, 2)):
        once = apply_augmentation(x, repeated(label, 2))
        assert torch.equal(once, x.flip(axis))
        assert torch.equal(apply_augmentation(once, repeated(label, 2)), x)


@pytest.mark.parametrize("dtype, near", [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("size", [16, 17])
def test_quarter_turns_move_pixels(dtype, near, size):
    x = normal(3, 2, size, size).to(dtype)
    for turns, labels in ((1, QUARTER), (2, HALF), (3, -SIN - COS)):
        found = apply_augmentation(x, repeated(labels))
        assert torch.allclose(found, x.rot90(turns, (2, 3)), rtol=0, atol=near)


@every_size
def test_a_translation_by_whole_pixels_moves_pixels(height, width):
    x = normal(1, 2, height, width)
    found = apply_augmentation(x, repeated(RIGHT * 8 * 3 / width - DOWN * 8 * 2 / height, 1))
    assert torch.allclose(found[..., :-2, 3:], x[..., 2:, :-3], rtol=0, atol=1e-12)
    # What comes in from outside is the image in the mirror of its edge.
    assert torch.allclose(found[..., :-2, :3], x[..., 2:, :3].flip(3), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "labels, wanted",
    [
        (SCALED * 2, {"spread": (4 * 2**0.4, 4 * 2**0.4)}),
        (SCALED * -1, {"spread": (4 * 2**-0.2, 4 * 2**-0.2)}),
        (STRETCHED * 2, {"spread": (4 * 2**0.4, 4 * 2**-0.4)}),
        (STRETCHED * -2, {"spread": (4 * 2**-0.4, 4 * 2**0.4)}),
        # Twice 45 degrees clockwise: along the diagonal that falls to the right.
        (SKEWED * 2, {"spread": (4 * 2**0.4, 4 * 2**-0.4), "angle": -math.pi / 4}),
        (RIGHT + DOWN / 2, {"centre": (6.0, 3.0)}),
    ],
)
def test_a_round_cloud_gets_the_size_place_and_stretch_of_its_labels(labels, wanted):
    found = apply_augmentation(smooth(), repeated(labels, 1))
    assert torch.allclose(found, smooth(**wanted), **NEAR)


def test_rotations_are_counter_clockwise():
    found = apply_augmentation(
        smooth(spread=(5.0, 3.0)), repeated(COS * (math.cos(0.7) - 1) + SIN * math.sin(0.7), 1)
    )
    assert torch.allclose(found, smooth(spread=(5.0, 3.0), angle=0.7), **NEAR)


def test_transformations_are_applied_in_the_documented_order():
    whole = MIRRORED + SCALED / 2 + QUARTER + STRETCHED + 0.3 * RIGHT
    x = smooth(centre=(5.0, 2.0), spread=(6.0, 4.0))
    found = x
    for one in (MIRRORED, SCALED / 2, QUARTER, STRETCHED, 0.3 * RIGHT):
        found = apply_augmentation(found, repeated(one, 1))
    assert torch.allclose(apply_augmentation(x, repeated(whole, 1))[INSIDE], found[INSIDE], rtol=0, atol=0.03)
    other = x
    for one in (QUARTER, MIRRORED, 0.3 * RIGHT, STRETCHED, SCALED / 2):
        other = apply_augmentation(other, repeated(one, 1))
    assert (found - other).abs().max() > 0.1


@given(st.lists(st.floats(-2, 2), min_size=LABELS, max_size=LABELS), st.floats(-5, 5), st.floats(0.1, 3))
def test_colours_do_not_change(values, shift, factor):
    """Geometry treats all channels the same and commutes with a change of units."""
    labels = torch.tensor(values, dtype=torch.float64)
    angle = labels[SIN.bool()].item()
    labels[COS.bool()], labels[SIN.bool()] = math.cos(angle) - 1, math.sin(angle)
    found = apply_augmentation(X, repeated(labels))
    assert torch.allclose(apply_augmentation(X.flip(1), repeated(labels)), found.flip(1))
    assert torch.allclose(apply_augmentation(factor * X + shift, repeated(labels)), factor * found + shift)
    flat = torch.full_like(X, shift)
    assert torch.allclose(apply_augmentation(flat, repeated(labels)), flat)


def test_each_transformation_has_its_probability_independently():
    n = 40_000
    labels = Augment(0.12).draw_labels(n, torch.Generator().manual_seed(0))
    assert labels.shape == (n, LABELS)
    parts = [labels[:, k].ne(0).any(1) for k in ([0], [1], [2], [3, 4], [5, 6], [7, 8])]
    for part, wanted in zip(parts, (0.5, 0.06, 0.12, 0.12, 0.12, 0.12), strict=True):
        assert part.double().mean().item() == pytest.approx(wanted, abs=4 * math.sqrt(wanted / n))
    together = (parts[2] & parts[3]).double().mean().item()
    assert together == pytest.approx(0.12**2, abs=4 * 0.12 / math.sqrt(n))


def test_labels_have_the_spread_of_the_paper():
    """Normal of unit variance, and angles that are uniform: the mean of cos - 1 is -1."""
    labels = Augment(1.0).draw_labels(40_000, torch.Generator().manual_seed(1))
    assert set(labels[:, :2].unique().tolist()) == {0.0, 1.0}
    deviations = [1, math.sqrt(0.5), math.sqrt(0.5), math.sqrt(0.5), math.sqrt(0.5), 1, 1]
    assert labels[:, 2:].std(0).tolist() == pytest.approx(deviations, abs=0.02)
    assert labels[:, 2:].mean(0).tolist() == pytest.approx([0, -1, 0, 0, 0, 0, 0], abs=0.02)
    assert torch.allclose((labels[:, 3] + 1) ** 2 + labels[:, 4] ** 2, torch.ones(40_000).double())


def test_probability_zero_draws_zero_labels_and_impossible_ones_are_refused():
    assert not Augment().draw_labels(1000, torch.Generator().manual_seed(0)).any()
    for probability in (-0.1, 1.1, math.nan):
        with pytest.raises(UserError, match=r"augment\.probability must lie in"):
            Augment(probability)
