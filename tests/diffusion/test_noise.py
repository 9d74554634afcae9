import numpy as np
import pytest
import torch

from ddim.diffusion.noise import Noise, check_seeds
from ddim.errors import UserError


def drawn(seeds, draws=2, side=5, dtype=torch.float32):
    noise, x = Noise(seeds), torch.zeros(len(seeds), 3, side, side, dtype=dtype)
    return [noise.like(x) for _ in range(draws)]


def test_an_image_depends_on_its_own_seed_only():
    whole = drawn(range(10))
    for seeds in ([3], [3, 4], [9, 3, 3], [5, 0, 3]):
        for draw, known in zip(drawn(seeds), whole, strict=True):
            for image, seed in zip(draw, seeds, strict=True):
                assert torch.equal(image, known[seed])


def test_a_stream_goes_on():
    first, second = drawn([0])
    assert not torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(drawn([7, 8]), drawn([7, 8]), strict=True))


def test_the_global_generator_neither_matters_nor_moves():
    before = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        one = drawn(range(3))
        torch.manual_seed(1)
        two = drawn(range(3))
    assert torch.equal(torch.stack(one), torch.stack(two))
    drawn(range(3))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_noise_is_standard_normal_and_like_x(dtype):
    (draw,) = drawn(range(200), 1, side=16, dtype=dtype)
    assert draw.dtype == dtype
    assert draw.shape == (200, 3, 16, 16)
    values = draw.double().flatten()
    n = values.numel()
    assert abs(values.mean()) < 5 / n**0.5
    assert values.var().item() == pytest.approx(1, abs=5 * (2 / n) ** 0.5 + 0.003)
    assert (values.abs() < 1).double().mean().item() == pytest.approx(0.6827, abs=0.006)


def test_neighbouring_seeds_are_independent():
    (draw,) = drawn(range(50), 1, side=32)
    correlation = torch.corrcoef(draw.flatten(1)) - torch.eye(50)
    assert correlation.abs().max() < 5 / (3 * 32 * 32) ** 0.5


def test_another_number_of_images_than_seeds_is_an_error():
    with pytest.raises(ValueError, match=r"2 streams, but x holds 3"):
        Noise([0, 1]).like(torch.zeros(3, 1))


@pytest.mark.parametrize("seed", [-1, 2**32, 2**63])
def test_seeds_that_a_generator_would_cut_are_refused(seed):
    for check in (check_seeds, Noise):
        with pytest.raises(UserError, match=rf"seed must lie in \[0, 2\^32\), got {seed}"):
            check([0, seed])


def test_the_ends_of_the_range_and_numpy_integers_are_seeds():
    (draw,) = drawn([0, 2**32 - 1], 1)
    assert not torch.equal(draw[0], draw[1])
    (same,) = drawn(np.array([0, 2**32 - 1]), 1)
    assert torch.equal(draw, same)
    for seed in (0.5, "a", True):
        with pytest.raises(UserError, match=f"seed must be a whole number, got {seed!r}"):
            Noise([seed])
