"""What a network is told beside the image: embeddings of the noise level, of a class and of a vector."""

import math

import torch
from torch import Tensor, nn

from ddim.errors import UserError


class Waves(nn.Module):
    """Sine and cosine of a number at several frequencies.

    Angles are float32 even under autocast, because bf16 cannot represent the phase after 1000 periods.

    Args:
        speeds: the frequencies (width / 2,), in radians per unit, computed on the CPU. On the device "meta",
            on which networks are built to be checked, arange and linspace import the compiler: a second.
        cos_first: whether the cosines come first.
    """

    def __init__(self, speeds: Tensor, *, cos_first: bool = False) -> None:
        super().__init__()
        self.width, self.cos_first = 2 * len(speeds), cos_first
        self.register_buffer("speeds", speeds, persistent=False)

    def forward(self, value: Tensor) -> Tensor:
        """Embed numbers (B,) as vectors (B, width)."""
        angles = value.float()[:, None] * self.speeds
        both = (angles.cos(), angles.sin()) if self.cos_first else (angles.sin(), angles.cos())
        return torch.cat(both, dim=1)


class Sinusoidal(Waves):
    """Sine and cosine at `width` / 2 frequencies, geometrically spaced from 1 to `max_frequency`.

    Frequencies are in periods per unit. This is the positional encoding of Vaswani et al. 2017, section 3.5,
    for a continuous number, as in Béres' tutorial.
    """

    def __init__(self, width: int, max_frequency: float = 1000.0) -> None:
        if width % 2:
            raise UserError(f"the width of an embedding must be even (sines and cosines), got {width}")
        powers = torch.linspace(0, math.log(max_frequency), width // 2, dtype=torch.float64, device="cpu")
        super().__init__((2 * math.pi * powers.exp()).float())


class Positional(Waves):
    """Sine and cosine at `width` / 2 frequencies, geometrically spaced from 1 to 1/10000 radian per unit.

    This encodes timesteps up to about 1000, as in Ho et al. 2020, after Vaswani et al. 2017, section 3.5. Ho
    et al. include the lowest frequency and put the sines first. Nichol & Dhariwal 2021 (`cos_first`) omit the
    lowest frequency and put the cosines first.
    """

    def __init__(self, width: int, *, cos_first: bool = False) -> None:
        half = width // 2
        steps = torch.arange(half, device="cpu") / (half if cos_first else max(1, half - 1))
        super().__init__((-math.log(10000) * steps).exp(), cos_first=cos_first)


class Fourier(nn.Module):
    """Sine and cosine at `width` / 2 random frequencies, in periods per unit.

    Song et al. 2021b, appendix C.1, after Tancik et al. 2020. The frequencies are normal with standard
    deviation 16. They are drawn once, are not trained, and are saved with the weights.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("frequencies", nn.init.normal_(torch.empty(width // 2), std=16.0))

    def forward(self, value: Tensor) -> Tensor:
        """Embed numbers (B,) as vectors (B, width)."""
        angles = 2 * math.pi * value.float()[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class ClassEmbedding(nn.Embedding):
    """A learned vector for each class. A label of -1 means no class.

    Args:
        classes: number of classes.
        width: channels of each vector.
        learns_none: whether no class has a learned vector too, the last one. Otherwise its vector is 0.
    """

    def __init__(self, classes: int, width: int, *, learns_none: bool = False) -> None:
        super().__init__(classes + learns_none, width)
        self.learns_none = learns_none

    def forward(self, label: Tensor) -> Tensor:  # type: ignore[override]
        """Embed class indices (B,) as (B, width)."""
        if self.learns_none:
            return super().forward(torch.where(label < 0, self.num_embeddings - 1, label))
        return super().forward(label.clamp(min=0)) * (label >= 0)[:, None]


class VectorEmbedding(nn.Module):
    """A perceptron with one hidden layer that embeds standardised vectors (B, d) as (B, width).

    A vector of NaN means no vector, and its embedding is 0.
    """

    def __init__(self, numbers: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(numbers, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, vector: Tensor) -> Tensor:
        """Embed vectors (B, d) as (B, width)."""
        known = ~vector.isnan().any(1, keepdim=True)
        # NaN must not reach the layers: its product with 0 would be NaN in the gradient.
        return self.layers(vector.nan_to_num(0.0).float()) * known
