"""The values that a training step returns, and a count of steps whose values are not finite.

The values and the count stay on the device, so that training need not wait for the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ddim.errors import NotFinite

IN_A_ROW = 3
"""Training stops after this number of steps in a row whose loss or gradient is not finite."""


class StepValues(Mapping[str, float]):
    """The loss, gradient norm and learning rate of a step, keyed "loss", "gradient_norm" and "lr".

    Each value is read from the device only when it is asked for. On an accelerator, reading waits for the
    step, so a callback that reads values at every step slows training down.
    """

    def __init__(self, values: Mapping[str, Tensor | float]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> float:
        """Return one of the values."""
        return float(self._values[name])

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._values)

    def __len__(self) -> int:
        """Return the number of values."""
        return len(self._values)

    def __repr__(self) -> str:
        return repr(dict(self))


class FiniteCheck:
    """Counts, on the device, the steps in a row whose loss or gradient is not finite.

    After `IN_A_ROW` such steps, all later steps count as not finite. So the weights do not change any
    more before `raise_if_failed` raises its error.

    Args:
        device: the device of the training.
        in_a_row: the count at the start.
    """

    def __init__(self, device: str, in_a_row: int = 0) -> None:
        # The count, and the step at which it reached `IN_A_ROW`.
        self.count = torch.tensor([in_a_row, 0], device=device)

    def judge(self, step: int, *values: Tensor) -> tuple[Tensor, Tensor]:
        """Return whether the values (scalars) of a step are finite, and the new `count`, on the device.

        `count` itself changes only when the caller assigns it, once the step is made.
        """
        count, failed = self.count
        over = count >= IN_A_ROW
        finite = torch.stack([value.isfinite() for value in values]).all()
        grown = torch.where(finite, 0, count + 1)
        failed = torch.where(~over & (grown >= IN_A_ROW), step, failed)
        return finite & ~over, torch.stack([torch.where(over, count, grown), failed])

    @property
    def in_a_row(self) -> int:
        """The number of steps in a row, up to now, that were not finite; this waits for the device."""
        return int(self.count[0])

    def raise_if_failed(self) -> None:
        """Raise an error if too many steps in a row were not finite; this waits for the device.

        Raises:
            NotFinite: after `IN_A_ROW` such steps; the message names the last of them.
        """
        count, step = self.count.tolist()
        if count >= IN_A_ROW:
            raise NotFinite(f"loss or gradient was not finite {IN_A_ROW} times in a row, at step {step}")
