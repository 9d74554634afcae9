"""The learning-rate range test (Smith 2017, section 3.3): a short training with increasing learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ddim.errors import UserError
from ddim.machine.progress import Progress, ignore_progress
from ddim.plots.charts import COLOURS, draw_curves, new_figure, save_figure
from ddim.recipe.checks import check_training
from ddim.recipe.recipe import Recipe
from ddim.runs.state import Plan
from ddim.sampling.pipeline import read_run_recipe
from ddim.training.callbacks import Callback
from ddim.training.loop import Training
from ddim.training.parent import hold_out_alike, load_parent
from ddim.training.start import Machine, open_split, start_training

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
        best = min(range(len(self.losses)), key=self.losses.__getitem__)
        return self.rates[best] / 10


def range_test(
    training: Training,
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
    # A later part of a budget may have another loss, and learned weights change the unit of the loss.
    training.plan, training.memory = Plan(None), None
    rates, losses, mean = [], [], 0.0
    for k in range(updates):
        progress("learning rates", k, updates)
        rate = low * (high / low) ** (k / (updates - 1))
        optim = replace(training.recipe.optim, lr=rate, warmup=0, decay="constant")
        training.recipe = replace(training.recipe, optim=optim)
        values = training.advance()
        if not all(map(math.isfinite, values.values())):
            break
        mean = 0.9 * mean + 0.1 * values["loss"]
        rates.append(rate)
        # Bias correction: the running mean starts at 0, so it is too small at first.
        losses.append(mean / (1 - 0.9 ** (k + 1)))
        if losses[-1] > 4 * min(losses):
            break
    if not losses:
        raise UserError(f"the loss was not finite even at the learning rate {low}: check the recipe")
    return Curve(rates, losses)


class CurvePlot(Callback):
    """Writes lr-finder.png into the run folder: the curve by which the learning rate was chosen."""

    def __init__(self, curve: Curve, recipe: Recipe) -> None:
        self.figure = new_figure(7.2, 4.2)
        axes, lines = self.figure.add_subplot(xscale="log"), {"loss": (curve.rates, curve.losses)}
        title = "Learning-rate range test"
        draw_curves(axes, lines, "learning rate", "training loss, smoothed", title=title)
        _mark_x(axes, curve.suggested, f"suggested {curve.suggested:.2g}")

    def on_start(self, training: Training, folder: Path) -> None:
        """See `Callback`."""
        save_figure(folder / "lr-finder.png", self.figure)


def _mark_x(axes: Axes, x: float, name: str) -> None:
    """Draw a vertical line at `x`, with its name at the top; the name is on the side with more space."""
    axes.axvline(x, color=COLOURS[1], linewidth=1.4, linestyle="--")
    right = axes.transAxes.inverted().transform(axes.transData.transform((x, 0)))[0] < 0.5
    style = {"ha": "left" if right else "right", "va": "top", "color": COLOURS[1], "fontsize": 9.5}
    place = (6 if right else -6, -6)
    systems = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    axes.annotate(name, (x, 1), place, parse_math=False, **systems, **style)


def find_learning_rate(
    recipe: Recipe, machine: Machine, source: Path | None = None, progress: Progress = ignore_progress
) -> Curve:
    """Run a learning-rate range test on the images of a recipe, and return its curve.

    The test starts from the weights from which the run would start.

    Args:
        recipe: the recipe.
        machine: how the test uses the machine.
        source: the run whose weights the new run starts from, if there is one.
        progress: called while images are decoded and before each update.
    """
    known = None if source is None else read_run_recipe(source)
    check_training(recipe, known)
    recipe = recipe if known is None else hold_out_alike(recipe, known)
    parts = open_split(recipe, progress)
    runtime = machine.choose(recipe)
    with runtime:
        training = start_training(recipe, parts, runtime, load_parent(source))
        return range_test(training, progress=progress)
