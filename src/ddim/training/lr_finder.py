"""The learning-rate range test (Smith 2017, section 3.3): a short training with increasing learning rate."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from ddim.errors import UserError
from ddim.machine.progress import Progress, ignore_progress
from ddim.plots.charts import COLOURS, draw_curves, new_figure, save_figure
from ddim.recipe.recipe import Recipe
from ddim.runs.state import Plan
from ddim.training.callbacks import Callback
from ddim.training.machine import Machine
from ddim.training.memory import advance_within_memory
from ddim.training.run import prepare_training
from ddim.training.trainer import Trainer


@dataclass(frozen=True)
class Curve:
    """Smoothed losses at increasing learning rates.

    Above the rate with the lowest loss, the loss rises, because steps are too long. The suggested rate is a
    tenth of the rate with the lowest loss. The factor of ten is a margin, as in luz and fastai.
    """

    rates: list[float]
    losses: list[float]

    @property
    def suggested(self) -> float:
        """A tenth of the rate with the lowest loss."""
        return self.rates[self.losses.index(min(self.losses))] / 10


def range_test(
    training: Trainer,
    low: float = 1e-7,
    high: float = 0.1,
    updates: int = 100,
    progress: Progress = ignore_progress,
) -> Curve:
    """Train with increasing learning rates, and return the losses; the weights of `training` change.

    All updates minimise the loss of the first update of a training, in which no weight is learned yet.

    Args:
        training: a training at its start.
        low: the first learning rate.
        high: the last learning rate; the rates in between grow by a constant factor.
        updates: number of updates. The test ends early if the smoothed loss is more than four times its
            lowest value, or if the loss or gradient is not finite.
        progress: called with "learning rates" before each update.

    Raises:
        UserError: if no loss was finite.
    """
    # A later part of a budget may have another loss, and past losses would draw other times.
    training.plan, training.past_losses = Plan(None), None
    curve, mean = Curve([], []), 0.0
    for k in range(updates):
        progress("learning rates", k, updates)
        rate = low * (high / low) ** (k / (updates - 1))
        optim = replace(training.recipe.optim, lr=rate, warmup=0, decay="constant")
        training.recipe = replace(training.recipe, optim=optim)
        values, _ = advance_within_memory(training)
        if not all(map(math.isfinite, values.values())):
            break
        mean = 0.9 * mean + 0.1 * values["loss"]
        curve.rates.append(rate)
        # Bias correction: the running mean starts at 0, so it is too small at first.
        curve.losses.append(mean / (1 - 0.9 ** (k + 1)))
        if curve.losses[-1] > 4 * min(curve.losses):
            break
    if not curve.losses:
        raise UserError(f"the loss was not finite even at the learning rate {low}: check the recipe")
    return curve


class CurvePlot(Callback):
    """Writes lr-finder.png into the run folder: the curve by which the learning rate was chosen."""

    def __init__(self, curve: Curve) -> None:
        self.figure = new_figure(7.2, 4.2)
        axes, rate = self.figure.add_subplot(xscale="log"), curve.suggested
        lines = {"loss": (curve.rates, curve.losses)}
        title = f"Learning-rate range test: {rate:.2g} suggested"
        draw_curves(axes, lines, "learning rate", "training loss, smoothed", title=title)
        axes.axvline(rate, color=COLOURS[1], linewidth=1.4, linestyle="--")

    def on_start(self, training: Trainer, folder: Path) -> None:
        """See `Callback`."""
        save_figure(folder / "lr-finder.png", self.figure)


def find_learning_rate(recipe: Recipe, machine: Machine, source: Path | None, progress: Progress) -> Curve:
    """Run a learning-rate range test on the images of a recipe, and return its curve.

    The test starts from the weights from which the run would start.

    Args:
        recipe: the recipe.
        machine: how the test uses the machine.
        source: the run whose weights the new run starts from, if there is one.
        progress: called while images are decoded and before each update.
    """
    machine = replace(machine, compiling=bool(machine.compiling))  # the test is too short to gain from it
    with prepare_training(recipe, source, machine, progress) as (trainer, _):
        return range_test(trainer, progress=progress)
