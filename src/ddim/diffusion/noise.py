"""Random streams: one for each sampled image, and in training one for each use and step."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ddim.errors import UserError, to_int

NOISE, VALIDATION, WEIGHTS, DROPOUT, GRAIN, AUGMENT, LABEL = 1, 2, 3, 4, 5, 6, 7
"""The purposes of random streams, as numbers: values of the argument `use` of `stream`."""


def check_seeds(seeds: Iterable[int]) -> list[int]:
    """Return the seeds, each in [0, 2^32), because a CPU generator uses only 32 bits of its seed.

    Raises:
        UserError: if a seed is outside this range, or not a whole number.
    """
    checked = [to_int("seed", seed) for seed in seeds]
    for seed in checked:
        if not 0 <= seed < 2**32:
            raise UserError(f"seed must lie in [0, 2^32), got {seed}")
    return checked


class Noise:
    """Standard normal noise for a batch of images; the noise of image k depends on seed k alone.

    Every draw advances the random streams, so each sampling run needs a new `Noise`.
    """

    def __init__(self, seeds: Iterable[int]) -> None:
        self.streams = [torch.Generator().manual_seed(seed) for seed in check_seeds(seeds)]

    def like(self, x: Tensor) -> Tensor:
        """Draw standard normal noise with the shape, dtype and device of x (B, ...), for B seeds.

        The noise is drawn on the CPU, so that samples do not depend on the device.
        """
        noise = torch.empty(x.shape, dtype=x.dtype, device="cpu")
        for image, stream in zip(noise, self.streams, strict=True):
            image.normal_(generator=stream)
        # From pinned memory, the program does not wait until a GPU has copied the noise.
        if x.is_cuda:
            return noise.pin_memory().to(x.device, non_blocking=True)
        return noise.to(x.device)


def stream(device: str, seed: int, use: int, step: int) -> torch.Generator:
    """Return the random generator, on the device, for one use at one training step.

    The generator depends on the arguments alone, so a resumed run draws the same numbers.

    Args:
        device: the device of the generator, such as "cpu".
        seed: the seed of the run.
        use: the purpose of the numbers, such as `NOISE` or `DROPOUT`.
        step: the training step.
    """
    import numpy as np

    (state,) = np.random.SeedSequence([seed, use, step]).generate_state(1)
    return torch.Generator(device).manual_seed(int(state))
