"""Group runs into configurations, average their metrics over seeds, and rank them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from ddim.evaluation.conditions import error_conditions, evaluation_conditions
from ddim.evaluation.guidance_name import name_guide
from ddim.experiments.index import Run, training_images
from ddim.metrics import catalogue
from ddim.metrics.catalogue import Metric
from ddim.recipe.options import ERRORS, flatten_as_text

METRICS = {
    "image_mae": Metric("image MAE", lower_is_better=True, biased=False, least=1),
    "noise_mae": Metric("noise MAE", lower_is_better=True, biased=False, least=1),
    **catalogue.METRICS,
}
"""The metrics of a report: the errors in the logs, and those of evaluations."""


class Score(NamedTuple):
    """The mean of a metric over runs with its standard deviation, or a value with its 95 % interval."""

    value: float
    deviation: float | None = None
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        """Return four decimals, more for small values and fewer for large ones."""
        digits = 2 if abs(self.value) >= 10 else 4 if abs(self.value) >= 0.01 else 6
        text = f"{self.value:.{digits}f}"
        if self.deviation is not None:
            text += f" ± {self.deviation:.{digits}f}"
        elif self.interval is not None:
            text += f" [{', '.join(f'{end:.{digits}f}' for end in self.interval)}]"
        return text


@dataclass(frozen=True)
class Configuration:
    """Runs that differ only in their seed.

    Attributes:
        name: the name of its first run, and the number of seeds.
        choice: the fields, with their values, in which this configuration differs from the others.
        runs: one run for each seed, a finished one if possible.
    """

    name: str
    choice: Mapping[str, str]
    runs: Sequence[Run]

    @property
    def finished(self) -> Sequence[Run]:
        """The finished runs."""
        return [run for run in self.runs if run.state == "finished"]

    @cached_property
    def scores(self) -> dict[str, Score]:
        """The mean of each measured metric over the finished runs, or over all if none is finished.

        Only evaluations that `mark_comparable` marked as comparable count.
        """
        values: dict[str, list[Score]] = {}
        for run in self.finished or self.runs:
            for name, error in run.errors.items():
                values.setdefault(name, []).append(Score(error))
            for evaluation in run.evaluations if run.comparable else ():
                for name, measured in evaluation.metrics.items():
                    score = Score(measured.value, interval=evaluation.interval(name))
                    values.setdefault(name, []).append(score)
        return {name: _average(values[name]) for name in METRICS if name in values}


def _average(scores: Sequence[Score]) -> Score:
    values = [score.value for score in scores]
    return Score(fmean(values), stdev(values)) if len(values) > 1 else scores[0]


def group_runs(runs: Sequence[Run], names: Mapping[Path, str]) -> list[Configuration]:
    """Return the configurations of the runs that have begun, in the order of their first runs.

    If two runs have the same recipe and seed, one of them counts, a finished one if possible.
    """
    begun = [run for run in runs if run.recipe and run.state != "waiting"]
    recipes = [_describe_recipe(run, begun) for run in begun]
    fields = dict.fromkeys(name for recipe in recipes for name in recipe)
    varied = [name for name in fields if _differs(name, recipes)]
    groups: dict[tuple[str, ...], dict[int, Run]] = {}
    for run, recipe in zip(begun, recipes, strict=True):
        group = groups.setdefault(tuple(recipe.get(name, "–") for name in varied), {})
        seed = run.recipe.get("seed", 0)
        if seed not in group or (run.state == "finished" and group[seed].state != "finished"):
            group[seed] = run
    rows = []
    for values, group in groups.items():
        members = list(group.values())
        seeds = f" ({len(members)} seeds)" if len(members) > 1 else ""
        choice = dict(zip(varied, values, strict=True))
        rows.append(Configuration(names[members[0].path] + seeds, choice, members))
    return rows


def _describe_recipe(run: Run, others: Sequence[Run]) -> dict[str, str]:
    """Return the fields of a recipe that may change results, and where the weights and images come from."""
    fields = flatten_as_text(run.recipe)
    for name in ("seed", "net.classes"):
        fields.pop(name, None)
    if run.facts.get("extended"):
        fields["images"] = str(run.total)
    # Folders are left out, because other people may see the names.
    if source := run.facts.get("source"):
        fields["from"] = f"{name_guide(source)} ({run.facts.get('source_sha256', '')[:8]})"
    # The same images may have been read from different paths, and a path may have got other images.
    alike = [each for each in others if each.recipe["data"]["size"] == run.recipe["data"]["size"]]
    source = f"{Path(fields['data.source']).name} ({training_images(run)[:8]})"
    fields["data.source"] = source if len(set(map(training_images, alike))) > 1 else ""
    return fields


def _differs(name: str, recipes: Sequence[Mapping[str, str]]) -> bool:
    """Return whether recipes differ in a field.

    A field of a part, such as a schedule, is compared only between recipes with the same kind of part.
    """
    values: dict[str | None, set[str | None]] = {}
    for recipe in recipes:
        values.setdefault(recipe.get(name.rpartition(".")[0]), set()).add(recipe.get(name))
    return any(len(of_kind) > 1 for of_kind in values.values())


def rank_configurations(rows: Sequence[Configuration], metric: str) -> list[Configuration]:
    """Return the configurations with finished runs, the best first; [] if they cannot be ranked.

    They cannot if their images or the units of their errors differ, if too few images were compared for this
    metric, or if the two best are equal.
    """
    runs = [run for row in rows for run in row.runs]
    conditions = {error_conditions(run.recipe, training_images(run)) for run in runs}
    if metric in ERRORS:
        fair = len(conditions) == 1
    else:
        evaluations = [each for run in runs if run.comparable for each in run.evaluations]
        few = any(evaluation_conditions(each).shortage(metric) for each in evaluations)
        fair = len({each.reference for each in conditions}) == 1 and not few
    measured = [row for row in rows if row.finished and metric in row.scores]
    worse = not METRICS[metric].lower_is_better
    ranked = sorted(measured, key=lambda row: row.scores[metric].value, reverse=worse)
    tied = len(ranked) < 2 or ranked[0].scores[metric].value == ranked[1].scores[metric].value
    return ranked if fair and not tied else []
