import pytest
import torch

from ddim.diffusion.noise import Noise
from ddim.errors import UserError


def drawn(seeds, draws=2, side=5, dtype=torch.float32):
    noise, x = Noise(seeds), torch.zeros(len(seeds), 3, side, side, dtype=dtype)
    return [noise.like(x) for _ in range(draws)]


def test_an_image_depends_on_its_own_seed_only():
    before, whole = torch.get_rng_state(), drawn(range(10))
    for seeds in ([3], [3, 4], [9, 3, 3], [5, 0, 3]):
        for draw, known in zip(drawn(seeds), whole, strict=True):
            for image, seed in zip(draw, seeds, strict=True):
                assert torch.equal(image, known[seed])
    assert torch.equal(before, torch.get_rng_state())
    for wrong in ([-1], [2**32], [0.5]):
        with pytest.raises(UserError, match="seed"):
            Noise(wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_noise_is_standard_normal_and_like_x(dtype):
    (draw,) = drawn(range(200), 1, side=16, dtype=dtype)
    assert (draw.dtype, draw.shape) == (dtype, (200, 3, 16, 16))
    values = draw.double().flatten()
    n = values.numel()
    assert abs(values.mean()) < 5 / n**0.5
    assert values.var().item() == pytest.approx(1, abs=5 * (2 / n) ** 0.5 + 0.003)
    assert (values.abs() < 1).double().mean().item() == pytest.approx(0.6827, abs=0.006)
