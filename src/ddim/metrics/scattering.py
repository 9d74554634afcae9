"""The scattering transform (Bruna & Mallat 2013): image features from fixed wavelets, without training.

The features of a network that was trained on photographs depend on the classes it learned to distinguish.
Wavelets measure contrast, edges and textures at each scale. If samples are better by the features of a
network and also by these wavelets, this result does not depend on one network.
"""

import hashlib
import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

_SIZE, _SCALES, _ANGLES = 64, 4, 8
_PAD = 2**_SCALES
_FLOOR = 1e-3  # about the error of rounding to 8 bits, 1 / (255 sqrt(12))
_SCALE = 3.0  # brings the features of photographs to about the size of EfficientNet's, as KID's kernel needs


def load_scattering() -> tuple[str, Callable[[Tensor], Tensor]]:
    """Return the scattering transform as a function; it computes 417 coefficients for each of three colours.

    Returns:
        A SHA-256 (hex) of the constants of the transform, and the function: (B, 3, H, W) in [0, 255] ->
        (B, 1251).
    """
    constants = f"Morlet {_SIZE} {_SCALES} {_ANGLES} {_PAD} {_FLOOR} {_SCALE}"
    return hashlib.sha256(constants.encode()).hexdigest(), _features


def _features(images: Tensor) -> Tensor:
    """Return log(1 + S / floor) / scale, with the coefficients S of images.

    Images (B, 3, H, W) in [0, 255] -> features (B, 1251).
    """
    small = F.interpolate(images / 255, size=(_SIZE, _SIZE), mode="bicubic", antialias=True).clamp(0, 1)
    return torch.log1p(scatter(small).flatten(1) / _FLOOR) / _SCALE


def scatter(images: Tensor) -> Tensor:
    """Return the scattering coefficients (B, C, 417) of images (B, C, 64, 64).

    The first coefficient is the mean of the pixels. Then come the means of `|x * psi_1|` for the 32 wavelets
    psi_1 (4 scales, 8 angles), and the means of `||x * psi_1| * psi_2|` for the 384 pairs in which psi_2 has
    the larger scale. Images are padded by reflection, and all means are over the image without this padding.
    """
    padded = F.pad(images, (_PAD,) * 4, mode="reflect")
    spectrum = torch.fft.fft2(padded)
    first, second = [], []
    for scale in range(_SCALES):
        u = _wavelets(spectrum, scale, 0)
        first.append(_mean(u, scale))
        spectra = torch.fft.fft2(u)
        for larger in range(scale + 1, _SCALES):
            second.append(_mean(_wavelets(spectra, larger, scale), larger))
    parts = [images.mean((-2, -1))[..., None], *first, *(part.flatten(-2) for part in second)]
    return torch.cat(parts, -1)


def _wavelets(spectrum: Tensor, scale: int, sampled: int) -> Tensor:
    """Return |x * psi| (* is convolution) for all angles of a scale, at every 2^scale-th pixel.

    Args:
        spectrum: Fourier transform (..., S, S) of x.
        scale: the scale of the wavelets psi.
        sampled: x has every 2^sampled-th pixel of the padded image.

    Returns:
        (..., angles, S', S'), with S' = S / 2^(scale - sampled).
    """
    product = spectrum[..., None, :, :] * _bank(scale, sampled, spectrum.shape[-1], spectrum.device)
    # To keep every k-th pixel, the spectrum is cut into a grid of k x k blocks, and the blocks are averaged.
    every = 2 ** (scale - sampled)
    left = spectrum.shape[-1] // every
    folded = product.unflatten(-1, (every, left)).mean(-2).unflatten(-2, (every, left)).mean(-3)
    return torch.fft.ifft2(folded).abs()


def _mean(u: Tensor, sampled: int) -> Tensor:
    """Return the mean of u (..., S, S) without the padding; u has every 2^sampled-th pixel of the image."""
    margin = _PAD // 2**sampled
    return u[..., margin:-margin, margin:-margin].mean((-2, -1))


@cache
def _bank(scale: int, sampled: int, size: int, device: torch.device) -> Tensor:
    """Return the Fourier transforms (angles, size, size), real, of the Morlet wavelets of a scale.

    A wavelet is a wave of frequency xi, cut off by a Gaussian g: psi(u) = g(u) (exp(i xi u) - b). g is twice
    as long across the wave as along it. The constant b makes the mean 0. The transform of psi is G(w - xi) -
    b G(w), where G is the transform of g.
    """
    width, xi = 0.8 * 2 ** (scale - sampled), 0.75 * math.pi / 2 ** (scale - sampled)
    step = 2 * math.pi / size
    # The transform of a sampled wavelet is the sum of copies of the continuous one, shifted by multiples of
    # 2 pi. Five copies in each direction are summed.
    w = step * (torch.arange(-2 * size, 3 * size, dtype=torch.float64, device="cpu"))
    angles = math.pi * torch.arange(_ANGLES, dtype=torch.float64, device="cpu")[:, None, None] / _ANGLES
    along = w[:, None] * angles.cos() + w * angles.sin()
    across = w * angles.cos() - w[:, None] * angles.sin()

    def gaussian(along: Tensor) -> Tensor:
        return torch.exp(-(width**2) / 2 * (along**2 + (2 * across) ** 2))

    wave, plain = (
        copies.unflatten(-1, (5, size)).sum(-2).unflatten(-2, (5, size)).sum(-3)
        for copies in (gaussian(along - xi), gaussian(along))
    )
    b = wave[:, :1, :1] / plain[:, :1, :1]
    return (wave - b * plain).float().to(device)
