"""A number as a vector: what the network is told of the noise level."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Sinusoidal(nn.Module):
    """sin and cos at `width` / 2 frequencies, geometric from 1 to `max_frequency` turns per unit.

    The positional encoding of Vaswani et al. 2017, section 3.5, of a continuous number, as Béres has it.
    Angles are float32 whatever the precision around: at 1000 turns bf16 would keep no digit of the phase.
    """

    def __init__(self, width: int, max_frequency: float = 1000.0) -> None:
        super().__init__()
        self.width, self.max_frequency = width, max_frequency
        turns = torch.linspace(0, math.log(max_frequency), width // 2, dtype=torch.float64).exp()
        self.register_buffer("speeds", (2 * math.pi * turns).float(), persistent=False)

    def forward(self, value: Tensor) -> Tensor:
        """(B,) -> (B, width)."""
        angles = value.float()[:, None] * self.speeds
        return torch.cat([angles.sin(), angles.cos()], dim=1)
