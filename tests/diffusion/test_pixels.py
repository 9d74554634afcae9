import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from ddim.diffusion.pixels import Pixels
from oracles import normal, uniform


def images(n=40, channels=3):
    shift = torch.linspace(-0.1, 0.2, channels, dtype=torch.float64).reshape(1, -1, 1, 1)
    return (0.5 + shift + 0.1 * normal(n, channels, 6, 7)).clamp(0, 1)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("sizes", [[40], [7, 1, 32]])
def test_measured_pixels_do_not_depend_on_the_batches(channels, sizes):
    data = images(channels=channels)
    pixels, half = Pixels.measured(data.split(sizes)), Pixels.measured(data.split(sizes), 0.5)
    rows = data.numpy().transpose(1, 0, 2, 3).reshape(channels, -1)
    assert np.allclose(pixels.mean, rows.mean(1), rtol=1e-12)
    assert np.allclose(pixels.std, rows.std(1), rtol=1e-12)
    # Karras et al. 2022 assume data of deviation 0.5.
    assert half.enter(data).std(correction=0).item() == pytest.approx(0.5, rel=1e-12)


@given(mean=st.floats(0, 1), std=st.floats(0.01, 2))
def test_leave_inverts_enter(mean, std):
    pixels, data = Pixels.fixed(mean, std), uniform(4, 3, 5, 5)
    assert torch.allclose(pixels.leave(pixels.enter(data)), data, rtol=0, atol=1e-6)
    assert pixels.enter(data.float()).dtype == torch.float32
    left = pixels.leave(100 * normal(4, 3, 5, 5))
    assert (left.min(), left.max()) == (0, 1)


def test_dequantised_values_lie_around_those_of_the_image_and_units_are_bins_of_one_256th():
    pixels = Pixels((0.4, 0.5), (0.2, 0.3))
    values = torch.arange(256, dtype=torch.float64).reshape(1, 1, 16, 16).expand(2, 2, 16, 16)
    dequantised = pixels.dequantised
    assert torch.allclose(dequantised.enter(values / 255), pixels.enter((values + 0.5) / 256))
    grain = uniform(2, 2, 16, 16)
    x0 = pixels.enter((values + grain) / 256)
    assert torch.allclose(dequantised.values(x0), values + grain - 0.5)
    # One bin further is one part of 256 of the way from black to white.
    low, high = pixels.bounds
    assert torch.allclose(dequantised.units(x0).flatten() * (high - low), torch.full((2,), 256.0).double())


def test_a_constant_channel_can_be_measured():
    data = images(channels=4)
    data[:, 3] = 1
    pixels = Pixels.measured([data])
    assert torch.allclose(pixels.leave(pixels.enter(data)), data, rtol=0, atol=1e-6)
    assert pixels.enter(data)[:, 3].abs().max() < 1e-3
