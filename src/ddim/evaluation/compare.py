"""Compare evaluations: rank them by a metric, and list their differences and the settings that differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from ddim.errors import UserError, describe_given
from ddim.evaluation.conditions import Obstacle, find_obstacle
from ddim.evaluation.guidance_name import name_interval
from ddim.evaluation.record import FEATURES, Evaluation, read_evaluation
from ddim.files import hash_file
from ddim.metrics.catalogue import find_metric, metric_name
from ddim.metrics.fid import fid
from ddim.metrics.kid import kid_difference
from ddim.metrics.prdc import prdc
from ddim.plots.table import Tabular
from ddim.recipe.options import flatten
from ddim.runs.names import names_checkpoint
from ddim.sampling.image_features import find_features

_STATISTICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "fid": fid,
    "precision": lambda generated, reference: prdc(generated, reference).precision,
    "recall": lambda generated, reference: prdc(generated, reference).recall,
    "density": lambda generated, reference: prdc(generated, reference).density,
    "coverage": lambda generated, reference: prdc(generated, reference).coverage,
}

GROUPS = 10
"""Number of parts of each set of images; the jackknife leaves out one part at a time."""


@dataclass(frozen=True)
class Difference:
    """The metric of an evaluation minus the metric of the first evaluation.

    Args:
        value: the difference.
        low: the lower end of its 95 % confidence interval.
        high: the upper end of this interval.
        paired: whether both evaluations sampled the same seeds.
    """

    value: float
    low: float
    high: float
    paired: bool

    @property
    def distinguishable(self) -> bool:
        """Whether the 95 % confidence interval excludes 0."""
        return not self.low <= 0 <= self.high

    def __str__(self) -> str:
        """Return the difference, its confidence interval, and whether it is distinguishable from 0."""
        kind = "paired" if self.paired else "not paired"
        verdict = "" if self.distinguishable else ", not distinguishable at 95 %"
        return f"{self.value:+.5f} ({self.low:+.5f} ... {self.high:+.5f}), {kind}{verdict}"


@dataclass(frozen=True)
class Row:
    """An evaluation in a ranking.

    Args:
        evaluation: the evaluation.
        unranked: the reason why it cannot be ranked with the first evaluation, None if it can.
        difference: the difference from the first evaluation, or a sentence that says why it is not known.
            None for the first evaluation itself, and for evaluations that cannot be ranked.
    """

    evaluation: Evaluation
    unranked: Obstacle | None = None
    difference: Difference | str | None = None


@dataclass(frozen=True, repr=False)
class Comparison(Tabular):
    """Evaluations that are ranked by a metric, best first; evaluations that cannot be ranked come last.

    Args:
        metric: the name of the metric.
        first: the evaluation with which the other evaluations are compared.
        rows: all evaluations.
        choices: the settings that differ between the evaluations. Each name has a list with one value for
            each row, None for a row without this setting.
    """

    metric: str
    first: Evaluation
    rows: list[Row]
    choices: dict[str, list[Any]]

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dictionary for each evaluation, with its value, its difference from the first and more.

        If the difference is not known, `note` says why.
        """
        return [self._record(name, row) for name, row in zip(self.names, self.rows, strict=True)]

    @property
    def names(self) -> list[str]:
        """A unique name for each row: the evaluation's name, with its folder if several have this name."""
        names = [row.evaluation.name for row in self.rows]
        folders = [row.evaluation.folder for row in self.rows]
        pairs = zip(names, folders, strict=True)
        return [f"{name} ({folder})" if names.count(name) > 1 else name for name, folder in pairs]

    def _record(self, name: str, row: Row) -> dict[str, Any]:
        low, high = row.evaluation.interval(self.metric) or (None, None)
        known = row.difference if isinstance(row.difference, Difference) else None
        note = None if known else row.difference
        note = "the first" if row.evaluation is self.first else note
        return {
            "evaluation": name,
            "value": row.evaluation.value(self.metric),
            "low": low,
            "high": high,
            "difference": known and known.value,
            "difference_low": known and known.low,
            "difference_high": known and known.high,
            "paired": known and known.paired,
            "note": f"not ranked: {row.unranked}" if row.unranked else note,
            "folder": str(row.evaluation.folder),
        }

    def _shown_rows(self) -> list[dict[str, Any]]:
        """Return the rows with each difference as one text."""
        shown = []
        for record, row in zip(self.to_records(), self.rows, strict=True):
            shown.append({name: record[name] for name in ("evaluation", "value", "low", "high")})
            shown[-1] |= {"minus the first": record["note"] or str(row.difference)}
            shown[-1] |= {"folder": record["folder"]}
        return shown

    @property
    def remark(self) -> str | None:
        """A note if the NFE per sample differs between the ranked evaluations, else None."""
        return remark_on_nfe([row.evaluation for row in self.rows if row.unranked is None])

    @property
    def title(self) -> str:
        """The name of the metric, and whether lower or higher values are better."""
        metric = find_metric(self.metric)
        return f"{metric.title}, {'lower' if metric.lower_is_better else 'higher'} is better"


Compared: TypeAlias = str | Path | Evaluation
"""A result of `evaluate`, or the path of a record, its folder or a run; a run means its newest evaluation."""


def compare_evaluations(
    evaluations: Sequence[Compared] | Compared, *others: Compared, metric: str = "kid"
) -> Comparison:
    """Rank evaluations by a metric, and measure their differences from the first evaluation.

    Args:
        evaluations: a list of evaluations, or the first evaluation. Each is a result of `evaluate`, or the
            path of a record, of the folder of an evaluation, or of a run; a run means its newest evaluation.
        others: the other evaluations, if `evaluations` is not a list.
        metric: "kid", "fid", "fid_infinity", "precision", "recall", "density" or "coverage".

    Returns:
        The ranking, the differences from the first evaluation, and the settings that differ.

    Raises:
        UserError: if there is no such metric, a record cannot be read, or none can be ranked with the first.

    Example:
        >>> ddim.compare(run, other_run)
        >>> ddim.compare([run, other_run, ddim.evaluate(images, "photos/")], metric="fid")
    """
    metric = metric_name(metric)
    listed = [evaluations] if isinstance(evaluations, Compared) else list(evaluations)
    opened = [each if isinstance(each, Evaluation) else _read(each) for each in (*listed, *others)]
    rows = rank_evaluations(opened, metric)
    return Comparison(metric, opened[0], rows, list_differing_choices([row.evaluation for row in rows]))


def comparison_record(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as a dictionary of plain values, with the evaluations in the order of its rows."""
    return {
        "metric": comparison.metric,
        "first": comparison.first.folder,
        "rows": [
            {
                "folder": row.evaluation.folder,
                "samples": row.evaluation.generated.images,
                "value": row.evaluation.value(comparison.metric),
                "interval": row.evaluation.interval(comparison.metric),
                "unranked": row.unranked and str(row.unranked),
                "difference": asdict(row.difference)
                if isinstance(row.difference, Difference)
                else row.difference,
            }
            for row in comparison.rows
        ],
        "choices": comparison.choices,
    }


def _read(named: str | Path) -> Evaluation:
    if not isinstance(named, str | Path):
        raise UserError(
            f"an evaluation must be a result of ddim.evaluate or a path, got {describe_given(named)}"
        )
    path = Path(named)
    if names_checkpoint(path):
        raise UserError(f"{path} is a checkpoint: name an evaluation, {path.parent}/evaluations/N")
    return read_evaluation(path)


def rank_evaluations(evaluations: Sequence[Evaluation], metric: str) -> list[Row]:
    """Return one row for each evaluation: ranked rows, best first, then the others in the given order.

    Raises:
        UserError: if there are fewer than two evaluations, or none can be ranked with the first evaluation.
    """
    found = find_metric(metric)
    if len(evaluations) < 2:
        raise UserError(f"a comparison needs at least two evaluations, got {len(evaluations)}: give another")
    first, *others = evaluations
    reasons = [find_obstacle(first, other, metric) for other in others]
    if all(reasons):
        raise UserError(f"nothing can be compared by {found.title}: {reasons[0]}")
    rows = [Row(first)]
    for other, reason in zip(others, reasons, strict=True):
        if reason is None:
            rows.append(Row(other, None, measure_difference(other, first, metric)))
    # An evaluation without the metric cannot be ranked, so `or 0.0` below is never used.
    rows.sort(key=lambda row: row.evaluation.value(metric) or 0.0, reverse=not found.lower_is_better)
    return rows + [Row(other, reason) for other, reason in zip(others, reasons, strict=True) if reason]


def measure_difference(one: Evaluation, other: Evaluation, metric: str) -> Difference | str:
    """Return the metric of `one` minus the metric of `other`, or the reason why the difference is not known.

    The 95 % confidence interval comes from a jackknife. For KID, the jackknife leaves out one image at a
    time; for the other metrics, it leaves out a tenth of each set. Both evaluations lose the same reference
    images. If they sampled the same seeds, they also lose the same samples.

    Except for KID, the intervals are conservative, because the jackknife overestimates the variance (Efron &
    Stein 1981): they contain the true difference in at least 95 % of cases. For precision, recall, density
    and coverage they are up to about twice as wide as needed.
    """
    if metric != "kid" and metric not in _STATISTICS:
        return f"differences of {find_metric(metric).title} have no reliable confidence interval"
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
    return Difference(*_jackknife(_STATISTICS[metric], mine, theirs, reference), paired)


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
    generated, path = evaluation.generated, evaluation.folder / FEATURES
    shape = generated.images, evaluation.features.dimensions
    try:
        features = np.lib.format.open_memmap(path, mode="r")
        if generated.sha256 != hash_file(path):
            return None
    except (OSError, ValueError):
        return None
    return features if features.shape == shape and features.dtype == np.float32 else None


def _choices(evaluation: Evaluation) -> dict[str, Any]:
    """Return the settings of an evaluation as one flat dictionary."""
    choices: dict[str, Any] = {"samples": evaluation.generated.images}
    sampling = evaluation.sampling
    if sampling is None:
        return choices | {"source": evaluation.generated.source}
    recipe, interval, guide = sampling.recipe, sampling.guidance_interval, sampling.guide
    choices |= flatten({"sampler": sampling.sampler, "grid": sampling.grid})
    choices |= {"weights": sampling.weights, "nfe": sampling.nfe}
    choices |= {"label": sampling.label, "guidance": sampling.guidance}
    choices |= {"guidance interval": interval and name_interval(interval)}
    choices |= {"guide": guide and f"{guide['path']}, {guide['weights']} weights, {guide['sha256'][:8]}..."}
    choices |= {"steps": len(sampling.times), "first seed": min(sampling.seeds, default=None)}
    choices["images seen"] = sampling.step * recipe.get("optim", {}).get("batch", 1)
    rest = {name: value for name, value in recipe.items() if name not in ("sampler", "grid")}
    return choices | flatten(rest)
