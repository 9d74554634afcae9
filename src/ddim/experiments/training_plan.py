"""The plan of a training: a table of the errors to expect with each budget, and the runs that it
is based on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ddim.errors import format_count
from ddim.experiments.learning_curves import LearningCurve
from ddim.experiments.speed import Speed
from ddim.plots.table import Tabular
from ddim.recipe.recipe import Recipe
from ddim.training.progress import format_duration

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class PlannedRun:
    """What to expect of a run with one budget.

    Attributes:
        recipe: the recipe with this budget.
        images: the number of images that the run will see, counting repetitions.
        seconds: its duration, from the command to the last validation.
        speed: the measured speed.
        own_error: validation error (image MAE) of the user's finished runs after this number of images; None
            if it was not measured.
        own_kid: KID of the user's finished runs, or None.
        recorded_error: validation error of recorded runs of the same recipe on other images, or None.
        recorded_kid: KID of these recorded runs, or None.
    """

    recipe: Recipe
    images: int
    seconds: float
    speed: Speed
    own_error: float | None
    own_kid: float | None
    recorded_error: float | None
    recorded_kid: float | None


@dataclass(frozen=True, repr=False)
class TrainingPlan(Tabular):
    """The result of `plan_training`.

    Attributes:
        runs: the expected run for each budget, in the order of the budgets.
        train: number of training images.
        held_out: number of validation images.
        own: the user's finished runs, from which errors and KID are taken.
        recorded: the finished runs whose results come with ddim; errors and KID are taken from them.
        cautions: warnings about the machine and the images.
    """

    runs: tuple[PlannedRun, ...]
    train: int
    held_out: int
    own: tuple[LearningCurve, ...]
    recorded: tuple[LearningCurve, ...]
    cautions: tuple[str, ...]

    def to_records(self) -> list[dict[str, Any]]:
        """Return one row for each budget; an error or KID that was not measured is None."""
        return [
            {
                "minutes": run.seconds / 60 if run.recipe.images else run.recipe.minutes,
                "images": run.images,
                "passes": run.images / self.train,
                "images_per_second": run.speed.images_per_second,
                "compiled": run.speed.runtime.compile,
                "error_of_your_runs": run.own_error,
                "kid_of_your_runs": run.own_kid,
                "error_recorded": run.recorded_error,
                "kid_recorded": run.recorded_kid,
            }
            for run in self.runs
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the whole plan as plain values."""
        first = self.runs[0]
        return {
            "recipe": first.recipe.name,
            "size": list(first.recipe.data.size),
            "parameters": first.speed.parameters,
            "train": self.train,
            "held_out": self.held_out,
            "measured": [
                {
                    "device": speed.runtime.device,
                    "precision": speed.runtime.precision,
                    "threads": speed.runtime.threads,
                    "compiled": speed.runtime.compile,
                    "images_per_second": speed.images_per_second,
                    "images": speed.images,
                    "seconds": speed.seconds,
                    "warm_up_seconds": speed.warm_up,
                    "validation_seconds": speed.validation,
                }
                for speed in self._speeds()
            ],
            "budgets": self.to_records(),
            "your_runs": [curve.name for curve in self.own],
            "recorded": [f"{curve.data}: {curve.name}" for curve in self.recorded],
            "cautions": list(self.cautions),
        }

    def _speeds(self) -> list[Speed]:
        return list(dict.fromkeys(run.speed for run in self.runs))

    @property
    def title(self) -> str:
        first = self.runs[0]
        height, width = first.recipe.data.size
        return "\n".join(
            [
                f"{format_count(self.train, 'training image')} of {height} x {width} pixels; recipe "
                f"{first.recipe.name}, {first.speed.parameters:,} parameters",
                *map(_describe_speed, self._speeds()),
            ]
        )

    def _shown_rows(self) -> Sequence[dict[str, Any]]:
        rows = []
        for record in self.to_records():
            row = {
                "minutes": _show_minutes(record["minutes"]),
                "images": record["images"],
                "passes": format_epochs(record["passes"]),
            }
            kinds = {"your runs": "of_your_runs"} if self.own else {}
            for title, name in {**kinds, "recorded": "recorded"}.items():
                row[f"error, {title}"] = _show(record[f"error_{name}"])
                row[f"KID, {title}"] = _show(record[f"kid_{name}"])
            rows.append(row)
        return rows

    @property
    def notes(self) -> Sequence[str]:
        return [*self.cautions, *_describe_sources(self)]


def _describe_speed(speed: Speed) -> str:
    """Return a line about a measurement: what was measured, where and for how long."""
    pace = format_speed(speed.images_per_second)
    text = f"measured: {pace} images/s on {speed.runtime.describe()}, in {speed.seconds:.0f} s of training"
    if speed.runtime.compile:
        text += f" after {format_duration(speed.warm_up)} of compilation"
    if speed.batch < speed.recipe.optim.batch:
        text += f", with {format_count(speed.batch, 'image')} a step in place of {speed.recipe.optim.batch}"
    return text


def _describe_sources(plan: TrainingPlan) -> list[str]:
    """Return lines that say which error the plan shows, and from which runs the errors are taken."""
    lines = ["error: validation error (image MAE); lower is better, as for KID"]
    if plan.own:
        names = ", ".join(curve.name for curve in plan.own[:3])
        more = f" and {len(plan.own) - 3} more" if len(plan.own) > 3 else ""
        lines.append(f"your runs: {names}{more}, finished on the same images with this recipe")
    if plan.recorded:
        places = dict.fromkeys(f"{curve.data}, {curve.name.split(',')[0]}" for curve in plan.recorded)
        lines.append(
            f"recorded: this recipe on other images ({'; '.join(places)}); errors on your images will differ"
        )
    else:
        lines.append("recorded: no run of this recipe at this size")
    return lines


def format_speed(speed: float) -> str:
    """Return a speed as text, such as "0.31", "12" or "1,210"."""
    return f"{speed:,.0f}" if speed >= 99.5 else f"{speed:.2g}"


def format_epochs(passes: float) -> str:
    """Return a number of epochs as text, such as "1,234.5" or "0.009". A small number does not become 0."""
    if 0 < passes < 0.001:
        return "less than 0.001"
    return f"{passes:.1g}" if 0 < passes < 0.1 else f"{passes:,.1f}"


def _show_minutes(minutes: float) -> str:
    """Return minutes as text, such as "0.25", "12.5" or "1,440"."""
    return f"{minutes:,.0f}" if minutes >= 99.5 else f"{minutes:.3g}"


def _show(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.3f}"
