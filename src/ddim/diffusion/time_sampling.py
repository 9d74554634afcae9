"""Time samplings: at which noise levels a network is trained, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ddim.diffusion.schedules import Schedule
from ddim.errors import UserError, check_positive


class TimeSampling(Protocol):
    """The distribution of training times."""

    @property
    def entries(self) -> int | None:
        """Number of different times, i / entries for i = 1 ... entries; None where they are continuous."""
        ...

    def __call__(self, uniform: Tensor, schedule: Schedule) -> Tensor:
        """Times (B,) in (0, 1], float64, from numbers (B,) uniform in [0, 1)."""
        ...

    def memory(self) -> LossMemory | None:
        """A new memory of losses by which times are drawn, or None if losses do not decide."""
        ...


@dataclass(frozen=True)
class UniformTimes:
    """Times uniform in (low, 1]. t = 0 is left out: it may hold no noise, and so no noise to predict."""

    low: float = 0.0

    entries = None  # continuous

    def __post_init__(self) -> None:
        if not 0 <= self.low < 1:
            raise UserError(f"objective.times.low must be at least 0 and less than 1, got {self.low}")

    def __call__(self, uniform: Tensor, schedule: Schedule) -> Tensor:
        """The times; see `TimeSampling`."""
        return 1 - (1 - self.low) * uniform.double()

    def memory(self) -> None:
        """No memory; see `TimeSampling`."""


@dataclass(frozen=True)
class NormalLogSNR:
    """Log-SNR normally distributed, clamped to the schedule (Karras et al. 2022, table 1: sigma log-normal).

    The paper's mean -1.2 and deviation 1.2 of log sigma are 2.4 and 2.4 of log-SNR at sigma_data 0.5. For
    data of unit variance they are about 1 and 2.4.
    """

    mean: float = 1.0
    std: float = 2.4

    entries = None  # continuous

    def __post_init__(self) -> None:
        check_positive("objective.times", std=self.std)

    def __call__(self, uniform: Tensor, schedule: Schedule) -> Tensor:
        """The times; see `TimeSampling`."""
        inside = uniform.double().clamp(1e-9, 1 - 1e-9)
        return schedule.inverse(self.mean + self.std * torch.special.ndtri(inside))

    def memory(self) -> None:
        """No memory; see `TimeSampling`."""


@dataclass(frozen=True)
class TableTimes:
    """Each entry of a table equally often: t = i / entries for i = 1 ... entries (Ho et al. 2020)."""

    entries: int = 1000

    def __post_init__(self) -> None:
        check_positive("objective.times", entries=self.entries)

    def __call__(self, uniform: Tensor, schedule: Schedule) -> Tensor:
        """The times; see `TimeSampling`."""
        return ((uniform.double() * self.entries).floor() + 1) / self.entries

    def memory(self) -> LossMemory | None:
        """No memory; see `TimeSampling`."""


@dataclass(frozen=True)
class LossAware(TableTimes):
    """Entry i of a table with probability p_i in proportion to sqrt(E[loss_i^2]).

    Nichol & Dhariwal 2021, eq. 18, with the mean over the last `history` losses at the entry. A share
    `uniform` of the draws is spread evenly; all are, until each entry has its history. A draw counts
    1 / (entries p_i), so that the mean of the loss is that of even draws.
    """

    entries: int = 4000
    history: int = 10
    uniform: float = 0.001

    def __post_init__(self) -> None:
        if not (self.entries > 0 and self.history > 0):
            raise UserError(
                "objective.times.entries and objective.times.history must be above 0, "
                f"got {self.entries} and {self.history}"
            )
        if not 0 < self.uniform <= 1:
            raise UserError(f"objective.times.uniform must be above 0 and at most 1, got {self.uniform}")

    def memory(self) -> LossMemory:
        """An empty memory of these losses."""
        return LossMemory(self)


class LossMemory:
    """The last losses at each entry, and times drawn by them.

    It has state because it learns from the run; a checkpoint holds that state.
    """

    def __init__(self, sampling: LossAware) -> None:
        self.sampling = sampling
        self.losses = torch.zeros(sampling.entries, sampling.history, dtype=torch.float64)
        self.counts = torch.zeros(sampling.entries, dtype=torch.int64)

    def probabilities(self) -> Tensor:
        """(entries,) probabilities of the entries, float64, which add up to 1."""
        even = torch.full((self.sampling.entries,), 1 / self.sampling.entries, dtype=torch.float64)
        size = self.losses.square().mean(1).sqrt()
        if self.counts.min() < self.sampling.history or not size.sum() > 0:
            return even
        return torch.lerp(size / size.sum(), even, self.sampling.uniform)

    def draw(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Times (B,) in (0, 1] and the weight of each, float64, from numbers (B,) uniform in [0, 1)."""
        p = self.probabilities()
        index = torch.searchsorted(p.cumsum(0), uniform.double().contiguous(), right=True)
        # The last sum is 1 only up to rounding.
        index = index.clamp(max=self.sampling.entries - 1)
        return (index + 1).double() / self.sampling.entries, 1 / (self.sampling.entries * p[index])

    def update(self, times: Tensor, losses: Tensor) -> None:
        """Remember the losses (B,) at times (B,) of the table, the newest last."""
        for index, loss in zip(
            (times * self.sampling.entries).round().long() - 1, losses.double().cpu(), strict=True
        ):
            self.losses[index] = self.losses[index].roll(-1)
            self.losses[index, -1] = loss
            self.counts[index] += 1

    def state(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint holds, by name."""
        return {"losses": self.losses, "counts": self.counts}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over the state of another memory, as `state` returned it."""
        self.losses.copy_(state["losses"])
        self.counts.copy_(state["counts"])


TIME_SAMPLINGS: dict[str, type[TimeSampling]] = {
    "uniform_times": UniformTimes,
    "normal_log_snr": NormalLogSNR,
    "table_times": TableTimes,
    "loss_aware": LossAware,
}
"""Every time sampling by its name in a recipe."""
