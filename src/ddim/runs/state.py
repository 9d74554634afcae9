"""The state of a run in a checkpoint, except for its tensors: `RunState`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from ddim.data.values import EIGHT_BITS, Values
from ddim.diffusion.pixels import Pixels
from ddim.machine.runtime import Runtime
from ddim.recipe.recipe import Optim


@dataclass(frozen=True)
class Plan:
    """The training budget in images, and what is needed to change it without a jump of the learning rate.

    Attributes:
        total: number of images of the whole training; None while a time budget is not yet converted.
        settled: number of images seen when the budget was planned last.
        decayed: the part of the learning-rate decay that was over after `settled` images, from 0 to 1.
    """

    total: int | None
    settled: int = 0
    decayed: float = 0.0

    def fraction(self, seen: int) -> float:
        """Return the finished share of the learning-rate decay after `seen` images; 0 if `total` is None."""
        if self.total is None:
            return 0.0
        since = (seen - self.settled) / max(1, self.total - self.settled)
        return self.decayed + (1 - self.decayed) * min(1.0, max(0.0, since))

    def fixed(self, total: int, seen: int, batch: int) -> Plan:
        """Return a plan whose length is `total` images, rounded to whole batches.

        The length is never less than `seen`, the images that the run has seen already. If there was a budget
        before, the learning rate continues to decay from its present value.
        """
        total = max(seen, round(total / batch) * batch)
        return Plan(total, settled=seen, decayed=self.fraction(seen))

    def validation_steps(self, count: int, batch: int) -> set[int]:
        """Return `count` evenly spaced steps after which a run validates; the last one is the end of the run.

        If `total` is None, the only step is 0. A step is left out if it would too closely follow the
        validation at which the length was changed.
        """
        total, begin = self.total or 0, self.settled
        steps = {math.ceil(total * k / count / batch) for k in range(1, count + 1)}
        # Without a decay, the length was planned between two validations.
        if not self.decayed:
            return steps
        close = min(begin + total / count / 2, total)
        return {step for step in steps if not begin < step * batch < close}

    def rate(self, optim: Optim, seen: int) -> float:
        """Return the learning rate after `seen` images: linear warm-up, then constant or half a cosine."""
        rise = min(1.0, (seen + optim.batch) / optim.warmup) if optim.warmup else 1.0
        if optim.decay == "constant" or self.total is None:
            return optim.lr * rise
        return optim.lr * rise * 0.5 * (1 + math.cos(math.pi * self.fraction(seen)))


@dataclass(frozen=True)
class TrainedOn:
    """The images of a run: `fingerprint` is the SHA-256 of all images, `train` counts the training images."""

    fingerprint: str
    train: int


@dataclass(frozen=True)
class RunState:
    """The counters and choices of a run at a checkpoint.

    Attributes:
        step: training steps so far.
        pixels: the map between images and model units.
        channels: channels of the images.
        classes: class names, in the order of class indices.
        runtime: how the network runs.
        not_finite: number of steps in a row, up to now, whose loss was not finite.
        best: lowest value so far of the metric `report.best`.
        sums: sums of losses and other values since the last line of the log.
        plan: the training budget.
        images: the images of the run; None for a run that was imported.
        stopped: the reason for which a callback stopped the run at this step; None if no callback did.
        due: whether a signal stopped the validation of `step`, which must then be repeated.
        values: the type and range of the values of the training images.
    """

    step: int
    pixels: Pixels
    channels: int
    classes: tuple[str, ...]
    runtime: Runtime
    not_finite: int = 0
    best: float | None = None
    sums: dict[str, float] = field(default_factory=dict)
    plan: Plan = Plan(None)
    images: TrainedOn | None = None
    stopped: str | None = None
    due: bool = False
    values: Values = EIGHT_BITS

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON, which has no NaN: a sum of losses that is not finite becomes null."""
        sums = {name: value if math.isfinite(value) else None for name, value in self.sums.items()}
        return asdict(self) | {"sums": sums}
