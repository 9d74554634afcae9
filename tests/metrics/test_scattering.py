"""The scattering transform against its definition in space, and on images whose coefficients are known."""

import math

import numpy as np
import pytest
import torch

from ddim.metrics.scattering import _bank, scatter


def wave(x, y, size=64):
    """Return the image (1, 1, size, size) of a cosine with x and y periods."""
    rows, columns = np.mgrid[:size, :size]
    return torch.tensor(np.cos(2 * np.pi * (x * columns + y * rows) / size))[None, None].float()


def morlet(scale, angle, size):
    """Return psi(u) = g(u) (exp(i xi u) - b), summed over periodic copies, as Bruna & Mallat write it."""
    deviation, xi = 0.8 * 2**scale, 0.75 * math.pi / 2**scale
    u = np.arange(-3 * size, 3 * size)
    along = u[:, None] * math.cos(angle) + u * math.sin(angle)
    across = u * math.cos(angle) - u[:, None] * math.sin(angle)
    g = np.exp(-(along**2 + (across / 2) ** 2) / (2 * deviation**2)) / (4 * math.pi * deviation**2)
    waves = np.exp(1j * xi * along)
    psi = g * (waves - (g * waves).sum() / g.sum())
    return psi.reshape(6, size, 6, size).sum((0, 2))


@pytest.mark.parametrize("scale", range(4))
def test_each_wavelet_is_the_transform_of_its_definition_in_space(scale):
    for k, found in enumerate(_bank(scale, 0, 96, torch.device("cpu")).numpy()):
        expected = np.fft.fft2(morlet(scale, math.pi * k / 8, 96))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_second_order_coefficients_equal_convolutions_at_full_resolution():
    draw = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, 64, 64, generator=draw)
    # A smooth image, so that the margin of the image matters little.
    image = torch.fft.ifft2(torch.fft.fft2(image) * torch.exp(-0.2 * torch.arange(64))).abs()
    found = scatter(image)[0, 0].numpy()
    padded = np.pad(image[0, 0].numpy(), 16, mode="reflect")

    def convolved(x, scale, k):
        return np.abs(np.fft.ifft2(np.fft.fft2(x) * np.fft.fft2(morlet(scale, math.pi * k / 8, 96))))

    first = convolved(padded, 1, 3)
    second = convolved(first, 3, 5)
    inside = slice(16, -16)
    assert found[1 + 8 * 1 + 3] == pytest.approx(first[inside, inside].mean(), rel=0.03)
    # Pairs of scales in order: (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3).
    assert found[33 + 64 * 4 + 8 * 3 + 5] == pytest.approx(second[inside, inside].mean(), rel=0.05)


def test_a_flat_image_has_its_value_and_no_other_coefficient():
    found = scatter(torch.full((1, 3, 64, 64), 0.7))
    torch.testing.assert_close(found[..., 0], torch.full((1, 3), 0.7))
    assert found[..., 1:].abs().max() < 1e-6


def test_a_wave_is_strongest_at_its_scale_and_angle_and_a_quarter_turn_moves_each_angle_by_four():
    # Twelve periods in 64 pixels are 0.375 pi a pixel, the frequency of the second scale.
    for x, y, angle in [(12, 0, 4), (0, 12, 0), (9, 9, 2), (-9, 9, 6)]:
        assert scatter(wave(x, y))[0, 0, 1:33].argmax().item() == 8 + angle
    image = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    # The finest scale, which keeps every pixel: coarser ones keep other pixels of the turned image.
    straight, turned = (scatter(each)[0, 0, 1:9] for each in (image, image.rot90(dims=(2, 3))))
    torch.testing.assert_close(turned, straight.roll(4))
