"""Compare evaluations: rank them by a metric, and list their differences and the settings that differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from ddim.errors import UserError, quote
from ddim.evaluation.conditions import why_not_comparable
from ddim.evaluation.guidance_name import name_interval
from ddim.evaluation.record import FEATURES, FOLDER, Evaluation, list_evaluations, read_evaluation
from ddim.files import hash_file
from ddim.metrics.catalogue import METRICS, metric_name
from ddim.metrics.fid import fid
from ddim.metrics.kid import kid_difference
from ddim.metrics.prdc import prdc
from ddim.metrics.statistics import Estimate
from ddim.plots.table import Tabular, format_interval
from ddim.recipe.options import flatten
from ddim.runs.names import is_run_folder
from ddim.sampling.image_features import find_features

GROUPS = 10
"""Number of parts of each set of images; the jackknife leaves out one part at a time."""


@dataclass(frozen=True)
class Difference(Estimate):
    """The metric of an evaluation minus the metric of the first evaluation, with its 95 % interval.

    `paired` says whether both evaluations sampled the same seeds.
    """

    paired: bool

    def __str__(self) -> str:
        """Return the difference, half its interval, and whether it is distinguishable from 0."""
        kind = "paired" if self.paired else "not paired"
        verdict = "" if self.distinguishable else ", not distinguishable at 95 %"
        return f"{format_interval(self.value, self.low, self.high, '+')}, {kind}{verdict}"


@dataclass(frozen=True)
class Row:
    """An evaluation in a ranking.

    Attributes:
        evaluation: the evaluation.
        unranked: the reason why it cannot be ranked with the first evaluation, None if it can.
        difference: the difference from the first evaluation, or a sentence that says why it is not known.
            None for the first evaluation itself, and for evaluations that cannot be ranked.
    """

    evaluation: Evaluation
    unranked: str | None = None
    difference: Difference | str | None = None


@dataclass(frozen=True, repr=False)
class Comparison(Tabular):
    """Evaluations that are ranked by a metric, best first; evaluations that cannot be ranked come last.

    Attributes:
        metric: the name of the metric.
        first: the evaluation with which the other evaluations are compared.
        rows: all evaluations.
        choices: the settings that differ between the evaluations. Each name has a list with one value for
            each row, None for a row without this setting.
        missing: the runs that have no evaluation.
    """

    metric: str
    first: Evaluation
    rows: list[Row]
    choices: dict[str, list[Any]]
    missing: Sequence[Path] = ()

    @property
    def names(self) -> list[str]:
        """A unique name for each row, as short as possible: of its run, its sampling, or its folder."""
        every = [row.evaluation for row in self.rows]
        runs = [each.folder.parents[1].name if each.folder.parent.name == FOLDER else "" for each in every]
        short = ["/".join(each.folder.parts[-3:]) for each in every]
        for names in (runs, [each.name for each in every], short):
            if all(names) and len(set(names)) == len(names):
                return names
        return [str(each.folder) for each in every]

    @property
    def verdict(self) -> str:
        """Whether the first evaluation and the best of the others differ by more than chance."""
        pairs = list(zip(self.names, self.rows, strict=True))
        mine = next(name for name, row in pairs if row.evaluation is self.first)
        name, other = next((name, row) for name, row in pairs if row.evaluation is not self.first)
        if not isinstance(other.difference, Difference):
            return f"{self.names[0]} has the best value; by chance or not is not known: {other.difference}"
        if not other.difference.distinguishable:
            return f"{mine} and {name} cannot be told apart: their difference may be chance"
        lower = other.difference.value < 0
        better, worse = (name, mine) if lower == METRICS[self.metric].lower_is_better else (mine, name)
        return f"{better} is better than {worse}: the difference is larger than chance"

    @property
    def title(self) -> str:
        """The name of the metric, and whether lower or higher values are better."""
        metric = METRICS[self.metric]
        return f"{metric.title}, {'lower' if metric.lower_is_better else 'higher'} is better"

    @property
    def remark(self) -> str | None:
        """A note if the NFE per sample differs between the ranked evaluations, else None."""
        return remark_on_nfe([row.evaluation for row in self.rows if row.unranked is None])

    @property
    def notes(self) -> list[str]:
        """Values and differences with intervals, what is not ranked or not evaluated, and what differs."""
        notes = []
        for record, row in zip(self.to_records(), self.rows, strict=True):
            value = format_interval(record["value"], record["low"], record["high"])
            said = str(row.difference) if isinstance(row.difference, Difference) else record["note"]
            notes.append(f"{record['evaluation']}: {value}; {said}")
        notes += [f"{run} has no evaluation: `ddim evaluate {quote(run)}` makes one" for run in self.missing]
        notes += [f"note: {self.remark}"] * bool(self.remark)
        return notes + [f"{name}: {', '.join(map(str, values))}" for name, values in self.choices.items()]

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dictionary for each evaluation, with its value, its difference from the first and more.

        If the difference is not known, `note` says why.
        """
        records = []
        for name, row in zip(self.names, self.rows, strict=True):
            found, minus = row.evaluation.metrics.get(self.metric), row.difference
            record = {"evaluation": name, "samples": row.evaluation.count, "value": found and found.value}
            record |= {"low": found and found.low, "high": found and found.high, "note": minus}
            if isinstance(minus, Difference):
                record |= {"difference": minus.value, "difference_low": minus.low, "note": None}
                record |= {"difference_high": minus.high, "paired": minus.paired}
            if row.evaluation is self.first:
                record["note"] = "the first"
            if row.unranked:
                record["note"] = f"not ranked: {row.unranked}"
            records.append(record | {"folder": str(row.evaluation.folder)})
        return records

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain values, with the evaluations in the order of its rows."""
        facts = {"verdict": self.verdict, "metric": self.metric, "first": self.first.folder}
        return {**facts, "rows": self.to_records(), "choices": self.choices, "missing": list(self.missing)}

    def _shown_rows(self) -> list[dict[str, Any]]:
        """Return the rows with the place of each evaluation, and what is known of its difference."""
        shown = []
        for place, (row, record) in enumerate(zip(self.rows, self.to_records(), strict=True), 1):
            said = (record["note"] or "").partition(":")[0]
            if isinstance(row.difference, Difference):
                said = "larger than chance" if row.difference.distinguishable else "may be chance"
            columns = {name: record[name] for name in ("evaluation", "samples", "value")}
            shown.append({"": None if row.unranked else place, **columns, "difference from the first": said})
        return shown


Compared: TypeAlias = str | Path | Evaluation
"""A result of `evaluate`, or the path of a record, its folder or a run; a run means its newest evaluation."""


def compare(*evaluations: Compared | Iterable[Compared], metric: str = "kid") -> Comparison:
    """Compare evaluations, and say whether differences are larger than chance.

    Evaluations are ranked if they have the same features and reference and, except by KID and FID-infinity,
    the same number of samples. Differences from the first evaluation have 95 % confidence intervals. They are
    paired if both evaluations sampled the same seeds. Except for KID, the intervals are conservative.

    Args:
        evaluations: runs (the newest evaluation of each), evaluations or their folders, or a folder of runs
            such as runs/; the first one is compared with the others.
        metric: kid, fid, fid_infinity, precision, recall, density or coverage.

    Returns:
        The ranking, the differences from the first evaluation, and the settings that differ.

    Raises:
        UserError: if a record cannot be read, or no two evaluations can be compared.

    Example:
        >>> ddim.compare(run, other_run)
        >>> ddim.compare([run, other_run, ddim.evaluate(images, "photos/")], metric="fid")

    Commands:
        ddim compare runs/photos-fast-1 runs/photos-fast-2
        ddim compare runs/ --metric coverage
    """
    metric, missing, opened = metric_name(metric), [], []
    for each in evaluations:
        for one in [each] if isinstance(each, Compared) else each:
            found, without = _open(one)
            opened, missing = [*opened, *found], [*missing, *without]
    if len(opened) < 2:
        advice = f"evaluate another run, `ddim evaluate {quote(missing[0] if missing else 'runs/NAME')}`"
        raise UserError(f"a comparison needs at least two evaluations, got {len(opened)}: {advice}")
    rows = rank_evaluations(opened, metric)
    first = next(row.evaluation for row in rows if row.difference is None and row.unranked is None)
    return Comparison(metric, first, rows, list_differing_choices([row.evaluation for row in rows]), missing)


def _open(named: Compared) -> tuple[list[Evaluation], list[Path]]:
    """Return the evaluations that a name means, and the runs in a folder that have none."""
    if isinstance(named, Evaluation):
        return [named], []
    path = Path(named)
    inside = sorted(path.iterdir()) if path.is_dir() and not is_run_folder(path) else []
    runs = [each for each in inside if each.is_dir() and is_run_folder(each)]
    evaluated = [run for run in runs if list_evaluations(run)]
    found = [read_evaluation(each) for each in (evaluated if runs else [path])]
    return found, [run for run in runs if run not in evaluated]


def rank_evaluations(evaluations: Sequence[Evaluation], metric: str) -> list[Row]:
    """Return one row for each evaluation: ranked rows, best first, then the others in the given order.

    If the first evaluation can be ranked with none of the others, the next one takes its place.

    Raises:
        UserError: if no two evaluations can be ranked.
    """
    found, first, pairs = METRICS[metric], evaluations[0], []
    for k, first in enumerate(evaluations):
        others = [*evaluations[:k], *evaluations[k + 1 :]]
        pairs = [(other, why_not_comparable(first, other, metric)) for other in others]
        if not all(why for _, why in pairs):
            break
    else:
        why = why_not_comparable(evaluations[0], evaluations[1], metric)
        raise UserError(f"nothing can be compared by {found.title}: {why}")
    rows = [Row(first), *(Row(o, None, measure_difference(o, first, metric)) for o, why in pairs if not why)]
    # An evaluation without the metric cannot be ranked, so `or 0.0` below is never used.
    rows.sort(key=lambda row: row.evaluation.value(metric) or 0.0, reverse=not found.lower_is_better)
    return rows + [Row(other, reason) for other, reason in pairs if reason]


def measure_difference(one: Evaluation, other: Evaluation, metric: str) -> Difference | str:
    """Return the metric of `one` minus the metric of `other`, or the reason why the difference is not known.

    The 95 % confidence interval comes from a jackknife. For KID, the jackknife leaves out one image at a
    time; for the other metrics, it leaves out a tenth of each set. Both evaluations lose the same reference
    images. If they sampled the same seeds, they also lose the same samples.

    Except for KID, the intervals are conservative, because the jackknife overestimates the variance (Efron &
    Stein 1981): they contain the true difference in at least 95 % of cases. For precision, recall, density
    and coverage they are up to about twice as wide as needed.
    """
    if metric == "fid_infinity":
        return f"differences of {METRICS[metric].title} have no reliable confidence interval"
    reference = find_features(one.reference.sha256, one.reference.images)
    if reference is None:
        return "the features of the reference are no longer in the cache: `ddim evaluate` computes them again"
    mine, theirs = load_features(one), load_features(other)
    if mine is None or theirs is None:
        missing = one if mine is None else other
        return f"{missing.folder / FEATURES} is missing or does not belong to its record"
    sampled, as_well = one.sampling, other.sampling
    paired = sampled is not None and as_well is not None and sampled.seeds == as_well.seeds
    if metric == "kid":
        found = kid_difference(mine, theirs, reference, paired=paired)
        return Difference(found.value, found.low, found.high, paired)
    statistic = fid if metric == "fid" else lambda generated, of: getattr(prdc(generated, of), metric)
    return Difference(*_jackknife(statistic, mine, theirs, reference), paired)


def remark_on_nfe(evaluations: Sequence[Evaluation]) -> str | None:
    """Return a note if the NFE per sample differs between the evaluations, else None."""
    known = [each.sampling for each in evaluations if each.sampling]
    if len({each.nfe for each in known}) < 2:
        return None
    return f"the network evaluations per sample (NFE) differ: {'; '.join(each.name for each in known)}"


def list_differing_choices(evaluations: Sequence[Evaluation]) -> dict[str, list[Any]]:
    """Return {name: values} of the settings that differ, with None for an evaluation without the setting."""
    tables = [_choices(evaluation) for evaluation in evaluations]
    names = dict.fromkeys(name for table in tables for name in table)
    columns = {name: [table.get(name) for table in tables] for name in names}
    return {name: values for name, values in columns.items() if any(value != values[0] for value in values)}


def _jackknife(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    one: np.ndarray,
    other: np.ndarray,
    reference: np.ndarray,
) -> tuple[float, float, float]:
    """Return (value, low, high) of the statistic of `one` minus that of `other`, by a jackknife over tenths.

    Each round leaves out a tenth of each of the three sets together. The variances of independent sets still
    add up, because their tenths are independent.

    Args:
        statistic: the metric, as a function of generated and reference features.
        one: features (N, d) of the first evaluation.
        other: features (M, d) of the second evaluation.
        reference: features (R, d) of the reference images.
    """
    value = statistic(one, reference) - statistic(other, reference)
    # The ten parts are drawn at random. If each were every tenth sample, one part could contain all samples
    # of a class, because seed s may have class s % classes.
    # Sets of equal size are divided in the same way, so samples of equal seeds are left out together.
    sets = [(f, np.random.default_rng(0).permutation(len(f)) % GROUPS) for f in (one, other, reference)]
    without = []
    for k in range(GROUPS):
        a, b, truth = (features[group != k] for features, group in sets)
        without.append(statistic(a, truth) - statistic(b, truth))
    quantile = float(stats.t.ppf(0.975, GROUPS - 1))
    radius = quantile * math.sqrt((GROUPS - 1) * float(np.var(without)))
    return value, value - radius, value + radius


def load_features(evaluation: Evaluation) -> np.ndarray | None:
    """Return the features of an evaluation, from the file beside its record, as a read-only memory map.

    Return None if the file is missing or belongs to another record.
    """
    path = evaluation.folder / FEATURES
    if not path.is_file() or evaluation.record["generated"]["sha256"] != hash_file(path):
        return None
    return np.lib.format.open_memmap(path, mode="r")


def _choices(evaluation: Evaluation) -> dict[str, Any]:
    """Return the settings of an evaluation as one flat dictionary."""
    sampling = evaluation.sampling
    if sampling is None:
        return {"samples": evaluation.count, "source": evaluation.source}
    record, guide = sampling.record, sampling.guide
    names = ("sampler", "grid", "weights", "nfe", "label", "guidance")
    own = {name: record.get(name) for name in names}
    own |= {"guide": guide and f"{guide['path']}, {guide['weights']} weights, {guide['sha256'][:8]}..."}
    interval = record.get("guidance_interval")
    own |= {"guidance interval": interval and name_interval(interval)}
    own |= {"steps": len(sampling.times), "first seed": min(sampling.seeds, default=None)}
    own |= {"images seen": sampling.step * sampling.recipe.get("optim", {}).get("batch", 1)}
    return {"samples": evaluation.count, **flatten({**sampling.recipe, **own})}
