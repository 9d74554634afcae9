"""Group runs into configurations, average their metrics over seeds, and rank them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ddim.evaluation.conditions import UNITS, evaluation_conditions
from ddim.evaluation.guidance_name import name_guide
from ddim.experiments.evaluations import training_images
from ddim.experiments.index import Run
from ddim.metrics import catalogue
from ddim.metrics.catalogue import Metric
from ddim.recipe.options import ERRORS, flatten_as_text

METRICS = {
    "image_mae": Metric("image MAE", lower_is_better=True, biased=False, least=1),
    "noise_mae": Metric("noise MAE", lower_is_better=True, biased=False, least=1),
    **catalogue.METRICS,
}
"""The metrics of a report: the errors in the logs, and those of evaluations."""


@dataclass(frozen=True)
class Score:
    """The mean of a metric over runs with its standard deviation, or a value with its 95 % interval."""

    value: float
    deviation: float | None = None
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        """Return four decimals, more for small values and fewer for large ones."""
        digits = 2 if abs(self.value) >= 10 else 4 if abs(self.value) >= 0.01 else 6
        spread = "" if self.deviation is None else f" ± {self.deviation:.{digits}f}"
        ends = "" if self.interval is None else " [{:.{d}f}, {:.{d}f}]".format(*self.interval, d=digits)
        return f"{self.value:.{digits}f}{spread}{ends}"


@dataclass(frozen=True)
class Configuration:
    """Runs that differ only in their seed.

    Attributes:
        name: the name of its first run, and the number of seeds.
        choice: the fields, with their values, in which this configuration differs from the others.
        runs: one run for each seed, a finished one if possible.
        duplicates: further runs with the same seeds, which do not count.
    """

    name: str
    choice: Mapping[str, str]
    runs: Sequence[Run]
    duplicates: Sequence[Run]

    @property
    def finished(self) -> Sequence[Run]:
        """The finished runs."""
        return [run for run in self.runs if run.state == "finished"]

    def score(self, metric: str) -> Score | None:
        """Return the mean of a metric over the finished runs, or over all if none is finished.

        Only evaluations that `mark_comparable` marked as comparable count. None if there is no value.
        """
        runs = self.finished or self.runs
        if metric in ERRORS:
            known = [(run.errors[metric], None) for run in runs if metric in run.errors]
        else:
            shown = [run.evaluations[-1] for run in runs if run.evaluations and run.comparable]
            measured = [each for each in shown if metric in each.metrics]
            known = [(each.metrics[metric].value, each.interval(metric)) for each in measured]
        values = [value for value, _ in known]
        if len(values) < 2:
            return Score(values[0], interval=known[0][1]) if known else None
        return Score(fmean(values), stdev(values))


def group_runs(runs: Sequence[Run]) -> list[Configuration]:
    """Return the configurations of the runs that have begun, in the order of their first runs."""
    begun = [run for run in runs if run.recipe and run.state != "waiting"]
    fields = [_describe_run(run, begun) for run in begun]
    names = [
        name for name in dict.fromkeys(name for each in fields for name in each) if _differs(name, fields)
    ]
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run, each in zip(begun, fields, strict=True):
        groups.setdefault(tuple(each.get(name, "–") for name in names), []).append(run)
    rows, shown = [], name_runs(runs)
    for values, group in groups.items():
        kept, duplicates = _split_duplicates(group)
        name = shown[kept[0].path] + (f" ({len(kept)} seeds)" if len(kept) > 1 else "")
        rows.append(Configuration(name, dict(zip(names, values, strict=True)), kept, duplicates))
    return rows


def name_runs(runs: Sequence[Run]) -> dict[Path, str]:
    """Return a name for each run: the end of its path, just long enough that all names differ."""
    paths, parts = {run.path: run.path.resolve().parts for run in runs}, 1
    while len({path[-parts:] for path in paths.values()}) < len(paths):
        parts += 1
    return {path: "/".join(whole[-parts:]) for path, whole in paths.items()}


def _describe_run(run: Run, others: Sequence[Run]) -> dict[str, str]:
    """Return the fields of a recipe that may change results, and where the weights and images come from."""
    fields = flatten_as_text(run.recipe)
    if run.facts.get("extended"):
        fields["images"] = str(run.total)
    # Folders are left out, because other people may see the names.
    if source := run.facts.get("source"):
        fields["from"] = f"{name_guide(source)} ({run.facts.get('source_sha256', '')[:8]})"
    # The same images may have been read from different paths, and a path may have got other images.
    known = {
        training_images(each) for each in others if each.recipe["data"]["size"] == run.recipe["data"]["size"]
    }
    name = Path(fields["data.source"]).name
    fields["data.source"] = f"{name} ({training_images(run)[:8]})" if len(known) > 1 else "the same"
    return {name: value for name, value in fields.items() if name not in ("seed", "net.classes")}


def _differs(name: str, recipes: Sequence[Mapping[str, str]]) -> bool:
    """Return whether recipes differ in a field.

    A field of a part, such as a schedule, is compared only between recipes with the same kind of part.
    """
    values: dict[str | None, set[str | None]] = {}
    for recipe in recipes:
        values.setdefault(recipe.get(name.rpartition(".")[0]), set()).add(recipe.get(name))
    return any(len(of_kind) > 1 for of_kind in values.values())


def _split_duplicates(group: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Return one run for each seed, a finished run if possible, and all other runs."""
    first: dict[Any, Run] = {}
    for run in sorted(group, key=lambda run: run.state != "finished"):
        first.setdefault(run.recipe.get("seed"), run)
    kept = [run for run in group if run is first[run.recipe.get("seed")]]
    return kept, [run for run in group if run not in kept]


def rank_configurations(rows: Sequence[Configuration], metric: str) -> list[Configuration]:
    """Return the configurations with finished runs, the best first; [] if they cannot be ranked.

    They cannot if their images or the units of their errors differ, if too few images were compared for this
    metric, or if the two best are equal.
    """
    runs = [run for row in rows for run in row.runs]
    if len({training_images(run) for run in runs}) > 1:
        return []
    if metric in ERRORS:
        fair = len({_describe_unit(run) for run in runs}) == 1
    else:
        measured = [(run, run.evaluations[-1]) for run in runs if run.evaluations and run.comparable]
        fair = not any(evaluation_conditions(each, run.recipe).shortage(metric) for run, each in measured)
    scores = [(score.value, row) for row in rows if row.finished and (score := row.score(metric))]
    scores.sort(key=lambda pair: pair[0], reverse=not METRICS[metric].lower_is_better)
    tied = len(scores) < 2 or scores[0][0] == scores[1][0]
    return [row for _, row in scores] if fair and not tied else []


def _describe_unit(run: Run) -> str:
    """Return what an error of a run depends on: noise levels, pixels and the validation images."""
    parts = [run.recipe.get(name) for name in UNITS]
    return str([*parts, run.recipe["data"]["size"], run.recipe["report"]["validation_images"]])
