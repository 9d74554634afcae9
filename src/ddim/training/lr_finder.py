"""The learning-rate range test (Smith 2017, section 3.3): one short run in which the rate grows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from ddim.errors import NotFinite, UserError
from ddim.nn.runtime import choose_runtime
from ddim.plots.charts import plot_curves, save_figure
from ddim.runs.checks import check_training
from ddim.runs.pipeline import recipe_of
from ddim.runs.recipe import Recipe
from ddim.training.callbacks import Callback
from ddim.training.loop import Training
from ddim.training.run import Machine, begun, opened, parent_of


@dataclass(frozen=True)
class Curve:
    """Smoothed losses at growing learning rates, and the rate suggested: a tenth of the rate of least loss.

    Past the least the loss rises because steps are too long; a tenth keeps a margin, as luz and fastai do.
    """

    rates: list[float]
    losses: list[float]

    @property
    def suggested(self) -> float:
        """The suggested learning rate."""
        best = min(range(len(self.losses)), key=self.losses.__getitem__)
        return self.rates[best] / 10


def range_test(training: Training, low: float = 1e-7, high: float = 0.1, updates: int = 100) -> Curve:
    """Losses of `updates` steps at rates growing geometrically from low to high.

    It moves the training's weights: give it one of its own. It ends early where the loss is four times its
    least.
    """
    rates, losses, mean = [], [], 0.0
    for k in range(updates):
        rate = low * (high / low) ** (k / (updates - 1))
        optim = replace(training.recipe.optim, lr=rate, warmup=0, decay="constant")
        training.recipe = replace(training.recipe, optim=optim)
        try:
            loss = training.advance()["loss"]
        except NotFinite:
            break
        if not math.isfinite(loss):
            break
        mean = 0.9 * mean + 0.1 * loss
        rates.append(rate)
        # The running mean started at 0; without the division the first losses would look small.
        losses.append(mean / (1 - 0.9 ** (k + 1)))
        if losses[-1] > 4 * min(losses):
            break
    if not losses:
        raise UserError(f"no loss was finite, even at the learning rate {low}")
    return Curve(rates, losses)


class Drawing(Callback):
    """lr-finder.png in the run folder: the curve from which the run has its learning rate."""

    def __init__(self, curve: Curve, recipe: Recipe) -> None:
        self.figure = plot_curves(
            {f"suggested {curve.suggested:.2g}": (curve.rates, curve.losses)},
            "learning rate",
            f"{recipe.objective.error} of {recipe.objective.on}, smoothed",
            log_x=True,
            title="Learning-rate range test",
        )

    def begin(self, training: Training, folder: Path) -> None:
        """See `Callback`."""
        save_figure(folder / "lr-finder.png", self.figure)


def find_rate(recipe: Recipe, machine: Machine, source: Path | None = None) -> Curve:
    """The range test of a recipe on its images, with a network of its own, begun as the run will begin."""
    check_training(recipe, None if source is None else recipe_of(source))
    parts = opened(recipe, None)
    runtime = choose_runtime(machine.device, machine.precision, machine.compiling, machine.threads)
    with runtime:
        return range_test(begun(recipe, parts, runtime, parent_of(source)))
