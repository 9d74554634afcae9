"""The choice of the samples that are evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ddim.diffusion.grids import Grid
from ddim.diffusion.guidance import Interval
from ddim.diffusion.noise import check_seeds
from ddim.diffusion.samplers import Sampler
from ddim.errors import UserError, check_count
from ddim.metrics.catalogue import LEAST

SAMPLES = 1000
"""The default number of samples of a run."""


@dataclass(frozen=True)
class Samples:
    """The choice of the samples of a run that are evaluated.

    Args:
        n: number of samples; None for `SAMPLES`, or for all images of a folder, an archive or a tensor.
        steps: sampling steps; None for the number in the recipe of the run.
        seed: the n samples have seeds `seed` ... `seed` + n - 1.
        weights: "ema", "raw", or the name of another EMA of the run.
        fields: changes of the recipe's sampler, grid, clip and sampled_on, as `override` takes them. If
            `fields` changes neither grid nor sampled_on, sampling uses the times that `ddim search` saved for
            this sampler and number of steps, if it saved any.
        device: where to sample; by default the device that the run was trained on.
        threads: processor threads of sampling; by default as many as in the training.
        label, guidance, guidance_interval, guide_with: as for `ddim.sample`.
        sampler: the sampler or its name; None for the sampler in `fields` or in the recipe.
        grid: the grid of times or its name. None means the grid in `fields`, else the searched grid, else
            the grid of the recipe.

    Raises:
        UserError: if a number is too small or too large.
    """

    n: int | None = None
    steps: int | None = None
    seed: int = 0
    weights: str = "ema"
    fields: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    threads: int | None = None
    label: str | int | None = None
    guidance: float | None = None
    guidance_interval: Interval | None = None
    guide_with: str | Path | None = None
    sampler: Sampler | str | None = None
    grid: Grid | str | None = None

    def __post_init__(self) -> None:
        if self.steps is not None:
            check_count("steps", self.steps)
        check_count("n", self.count, LEAST)
        check_seeds([self.seed])
        check_seeds([self.seed + self.count - 1])
        # Files refuse numbers of NumPy.
        for name in ("n", "steps", "seed"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else int(value))

    @property
    def count(self) -> int:
        """The number of samples of a run or a model."""
        return SAMPLES if self.n is None else self.n

    @property
    def seeds(self) -> range:
        """The seeds of the samples."""
        return range(self.seed, self.seed + self.count)

    def check_given(self, what: str) -> None:
        """Check that only `n` and `threads` were chosen, because images that are given are not sampled.

        Args:
            what: the given images, in words for the message.

        Raises:
            UserError: if another field was chosen.
        """
        usual = Samples(self.n, threads=self.threads)
        for name in (each.name for each in fields(self)):
            if getattr(self, name) != getattr(usual, name):
                raise UserError(f"{what} are not sampled: leave {name} out, got {getattr(self, name)!r}")
