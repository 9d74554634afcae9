"""Time samplings: distributions of the training times (timesteps), which determine the noise levels."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ddim.diffusion.parameterisation import count_entries
from ddim.diffusion.schedules import Schedule


class TimeSampling(Protocol):
    """The distribution of training times.

    A class of your own that inherits from this class needs only `__call__`.
    """

    def __call__(self, uniform: Tensor, schedule: Schedule) -> Tensor:
        """Return times (B,) in (0, 1], float64, from random numbers (B,) uniform in [0, 1)."""
        ...

    def memory(self, device: str = "cpu") -> "LossMemory | None":
        """Return an empty memory of losses if the distribution depends on past losses, else None."""
        return None


@dataclass(frozen=True)
class UniformTimes(TimeSampling):
    """Times uniform in (low, 1].

    The time t = 0 is excluded, because an image without noise has no noise to predict.

    Attributes:
        low: the smallest training time.
    """

    low: float = 0.0

    def __call__(self, uniform: Tensor, schedule: Schedule) -> Tensor:
        return 1 - (1 - self.low) * uniform.double()


@dataclass(frozen=True)
class NormalLogSNR(TimeSampling):
    """Times whose log-SNR is normally distributed, clamped to the range of the schedule.

    In Karras et al. 2022, table 1, log sigma has mean -1.2 and standard deviation 1.2, for data of standard
    deviation 0.5. The log-SNR then has mean 2.4 and standard deviation 2.4. For data of unit variance the
    mean is about 1.

    On `linear_path` these are the logit-normal times of Esser et al. 2024, eq. 19, with location -mean / 2
    and scale std / 2. Mean 0 and std 2 give their rf/lognorm(0.00, 1.00).

    Attributes:
        mean: mean of the log-SNR.
        std: standard deviation of the log-SNR.
    """

    mean: float = 1.0
    std: float = 2.4

    def __call__(self, uniform: Tensor, schedule: Schedule) -> Tensor:
        inside = uniform.double().clamp(1e-9, 1 - 1e-9)
        return schedule.inverse(self.mean + self.std * torch.special.ndtri(inside))


@dataclass(frozen=True)
class TableTimes(TimeSampling):
    """All entries of a table with equal probability (Ho et al. 2020): t = i / entries, i = 1 ... entries.

    Attributes:
        entries: number of entries of the table; None for those of the schedule, or 1000 if it has no table.
    """

    entries: int | None = None

    def __call__(self, uniform: Tensor, schedule: Schedule) -> Tensor:
        entries = count_entries(schedule, self.entries)
        return ((uniform.double() * entries).floor() + 1) / entries


@dataclass(frozen=True)
class LossAware(TableTimes):
    """Entry i of a table with probability p_i proportional to sqrt(E[loss_i^2]).

    Nichol & Dhariwal 2021, eq. 18; E is the mean over the last `history` losses at the entry. A fraction
    `uniform` of the draws is uniform. All draws are uniform until each entry has `history` losses. The loss
    of a draw has weight 1 / (entries p_i), so that the expected loss is the same as with uniform times.

    Attributes:
        entries: number of entries of the table; None for those of the schedule, or 1000 if it has no table.
        history: number of losses that are kept for each entry.
        uniform: fraction of the times that is drawn uniformly.
    """

    entries: int | None = None
    history: int = 10
    uniform: float = 0.001

    def memory(self, device: str = "cpu") -> "LossMemory":
        return LossMemory(self, device)


class LossMemory:
    """The last losses at each time of a table of times. They determine how often each time is drawn.

    Checkpoints save the losses and the number of losses at each entry. Times are drawn on `device`, which
    must support float64, by operations that do not wait for it.
    """

    def __init__(self, sampling: LossAware, device: str = "cpu") -> None:
        self.sampling, self.entries = sampling, count_entries(entries=sampling.entries)
        self.losses = torch.zeros(self.entries, sampling.history, dtype=torch.float64, device=device)
        self.counts = torch.zeros(self.entries, dtype=torch.int64, device=device)

    def draw(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Draw times (B,) in (0, 1] and their weights (B,), float64, from random numbers (B,) in [0, 1)."""
        size = self.losses.square().mean(1).sqrt()
        total, even = size.sum(), torch.full_like(size, 1 / self.entries)
        known = (self.counts.min() >= self.sampling.history) & (total > 0)
        p = torch.lerp(size / total, even, self.sampling.uniform)
        p = torch.where(known, p, even)
        index = torch.searchsorted(p.cumsum(0), uniform.double().contiguous(), right=True)
        # Rounding can make the last cumulative sum smaller than 1, and the index one too large.
        index = index.clamp(max=self.entries - 1)
        weights = 1 / (self.entries * p[index])
        return (index + 1).double() / self.entries, weights

    def update(self, times: Tensor, losses: Tensor, valid: Tensor | bool = True) -> None:
        """Store the losses (B,) at times (B,) of the table, in the order of the batch, if `valid` is true."""
        entries, history = self.losses.shape
        index = (times * entries).round().long() - 1
        counts = torch.zeros_like(self.counts).index_add(0, index, torch.ones_like(index))
        # Sorted by entry, the stored losses of an entry stand before its new ones; the last of them are kept.
        stored = torch.arange(entries * history, device=index.device) // history
        order = torch.cat([stored, index]).argsort(stable=True)
        end = (history + counts).cumsum(0)
        kept = end[:, None] + torch.arange(-history, 0, device=index.device)
        every = torch.cat([self.losses.flatten(), losses.to(self.losses)])
        valid = torch.as_tensor(valid)
        self.losses = torch.where(valid, every[order][kept], self.losses)
        self.counts = torch.where(valid, self.counts + counts, self.counts)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint saves, keyed by name."""
        return {"losses": self.losses, "counts": self.counts}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore a state that `state` returned."""
        self.losses.copy_(state["losses"])
        self.counts.copy_(state["counts"])


TIME_SAMPLINGS: dict[str, type[TimeSampling]] = {
    "uniform_times": UniformTimes,
    "normal_log_snr": NormalLogSNR,
    "table_times": TableTimes,
    "loss_aware": LossAware,
}
"""All time samplings, keyed by their names in a recipe."""


# How times are distributed over the log-SNR of a schedule

BIN = 2
"""Width of a bin of log-SNR; sigma / alpha changes by a factor e over one bin."""


def midpoints(count: int = 100_000) -> Tensor:
    """Return the midpoints (count,) of `count` equal parts of [0, 1], which stand for uniform times."""
    return (torch.arange(count, device="cpu").double() + 0.5) / count


def log_snr_range(schedule: Schedule) -> tuple[float, float]:
    """Return the largest and the smallest log-SNR at which a network is evaluated under a schedule."""
    # No network is evaluated on a clean image: if x_t at t = 0 is clean, t = 0.001 counts.
    first, early, last = schedule(torch.tensor([0.0, 1e-3, 1.0], device="cpu")).log_snr.tolist()
    return (first if math.isfinite(first) else early), last


def log_snr_bins(log_snr: Tensor) -> Tensor:
    """Return the lower edge of the bin of each log-SNR."""
    return (log_snr / BIN).floor() * BIN


def plateaus(schedule: Schedule) -> dict[float, float]:
    """Return the plateaus of a schedule as {log-SNR: share of times}, such as {-3.89: 0.38}.

    A plateau is a noise level that many times have: at least 1 % of all times in [0, 1]. The plateaus
    are in the order of increasing log-SNR. A continuous schedule has no plateaus. All times of a plateau
    train the network on the same noise level.
    """
    times = midpoints()
    levels, counts = schedule(times).log_snr.unique(return_counts=True)
    shares = counts / len(times)
    large = shares >= 0.01
    return dict(zip(levels[large].tolist(), shares[large].tolist(), strict=True))
