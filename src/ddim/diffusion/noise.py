"""Randomness as an argument: one stream an image; in training one for each use at each step."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index

import torch
from torch import Tensor

from ddim.errors import UserError

NOISE, VALIDATION, WEIGHTS, DROPOUT, GRAIN, AUGMENT, LABEL = 1, 2, 3, 4, 5, 6, 7
"""The uses of a run's random streams (see `stream`)."""


def check_seeds(seeds: Sequence[int]) -> None:
    """UserError unless every seed lies in [0, 2^32): a CPU generator keeps no more bits."""
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise UserError(f"seed must lie in [0, 2^32), got {seed}")


class Noise:
    """Standard normal noise in which image k depends on seed k and on nothing else.

    It has state, the position in each stream, because a run draws again and again; one value serves one run.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        check_seeds(seeds)
        self.streams = [torch.Generator().manual_seed(index(seed)) for seed in seeds]

    def like(self, x: Tensor) -> Tensor:
        """x (B, ...) with B the number of seeds -> (B, ...) standard normal, same type and device.

        Drawn on the CPU, so that every device gets the same image.
        """
        if len(x) != len(self.streams):
            raise ValueError(f"noise has {len(self.streams)} streams, but x holds {len(x)} images")
        draws = [torch.randn(x.shape[1:], generator=stream, dtype=x.dtype) for stream in self.streams]
        return torch.stack(draws).to(x.device)


def stream(device: str, seed: int, use: int, step: int) -> torch.Generator:
    """A generator on the device for one use at one step: the same after any resume."""
    import numpy as np

    (state,) = np.random.SeedSequence([seed, use, step]).generate_state(1)
    return torch.Generator(device).manual_seed(int(state))
