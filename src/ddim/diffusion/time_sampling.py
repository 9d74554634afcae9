"""Training times drawn where the loss is large, and weights that keep its mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.diffusion.schedules import Schedule
from ddim.errors import UserError


@dataclass(frozen=True)
class LossAware:
    """Entry i of a table of so many with probability p_i in proportion to sqrt(E[loss_i^2]).

    Nichol & Dhariwal 2021, eq. 18, the mean over the last `history` losses at the entry. A part `uniform` of
    the draws is spread evenly; all are, until each entry has its history. What is drawn counts
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

    def __call__(self, uniform: Tensor, schedule: Schedule) -> Tensor:
        """(B,) uniform in [0, 1) -> (B,) times of the table, each entry equally often."""
        return ((uniform.double() * self.entries).floor() + 1) / self.entries


class Memory:
    """The last losses at each entry; has state, which a checkpoint holds, because it learns from the run."""

    def __init__(self, choice: LossAware) -> None:
        self.choice = choice
        self.losses = torch.zeros(choice.entries, choice.history, dtype=torch.float64)
        self.counts = torch.zeros(choice.entries, dtype=torch.int64)

    def probabilities(self) -> Tensor:
        """(entries,) float64 that add up to 1."""
        even = torch.full((self.choice.entries,), 1 / self.choice.entries, dtype=torch.float64)
        size = self.losses.square().mean(1).sqrt()
        if self.counts.min() < self.choice.history or not size.sum() > 0:
            return even
        return torch.lerp(size / size.sum(), even, self.choice.uniform)

    def draw(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) uniform in [0, 1) -> (B,) times in (0, 1] and what each counts, float64."""
        p = self.probabilities()
        index = torch.searchsorted(p.cumsum(0), uniform.double().contiguous(), right=True)
        # The last sum is 1 but for roundings.
        index = index.clamp(max=self.choice.entries - 1)
        return (index + 1).double() / self.choice.entries, 1 / (self.choice.entries * p[index])

    def update(self, times: Tensor, losses: Tensor) -> None:
        """Remember the losses (B,) at times (B,) of the table, the newest last."""
        for index, loss in zip(
            (times * self.choice.entries).round().long() - 1, losses.double().cpu(), strict=True
        ):
            self.losses[index] = self.losses[index].roll(-1)
            self.losses[index, -1] = loss
            self.counts[index] += 1

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds, by name."""
        return {"losses": self.losses, "counts": self.counts}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Become the memory that gave this state."""
        self.losses.copy_(state["losses"])
        self.counts.copy_(state["counts"])
