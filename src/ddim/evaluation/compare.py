"""Evaluations side by side: their order by a metric, how far apart they are, and what else differs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddim.errors import UserError
from ddim.evaluation.conditions import Obstacle, find_obstacle
from ddim.evaluation.record import FEATURES, Evaluation
from ddim.files import hash_file
from ddim.metrics.catalogue import find_metric
from ddim.metrics.fid import fid
from ddim.metrics.kid import kid_difference
from ddim.metrics.precision_recall import prdc
from ddim.runs.codec import completed
from ddim.runs.image_features import kept

_STATISTICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "fid": fid,
    "precision": lambda generated, reference: prdc(generated, reference).precision,
    "recall": lambda generated, reference: prdc(generated, reference).recall,
    "density": lambda generated, reference: prdc(generated, reference).density,
    "coverage": lambda generated, reference: prdc(generated, reference).coverage,
}
_GROUPS, _STUDENT_95 = 10, 2.262157  # and the quantile of Student's t with 9 degrees of freedom


@dataclass(frozen=True)
class Difference:
    """A value less that of the first, and its 95 % interval, a cautious one but of KID (see `difference`).

    `paired` where both made the same seeds.
    """

    value: float
    low: float
    high: float
    paired: bool


@dataclass(frozen=True)
class Row:
    """An evaluation in a ranking.

    `unranked` says why it may not be ranked, None where it may; `difference` is to the first evaluation, or
    one sentence on why there is none; None for the first itself and where nothing may be ranked.
    """

    evaluation: Evaluation
    unranked: Obstacle | None = None
    difference: Difference | str | None = None


def ranked(evaluations: Sequence[Evaluation], metric: str) -> list[Row]:
    """The evaluations that may be ranked with the first, best first; then those that may not, as given.

    UserError for fewer than two, or where none may be ranked with the first.
    """
    read_as = find_metric(metric)
    if len(evaluations) < 2:
        raise UserError(f"a comparison needs at least two evaluations, got {len(evaluations)}")
    first, *others = evaluations
    why = [find_obstacle(first.record, other.record, metric) for other in others]
    if all(why):
        raise UserError(f"nothing can be compared by {read_as.title}: {why[0]}")
    may = [other for other, reason in zip(others, why, strict=True) if reason is None]
    rows = [Row(first), *(Row(other, None, difference(other, first, metric)) for other in may)]
    # A record without the metric is not comparable, so that each of these has a value.
    rows.sort(key=lambda row: row.evaluation.value(metric) or 0.0, reverse=not read_as.lower_is_better)
    return rows + [Row(other, reason) for other, reason in zip(others, why, strict=True) if reason]


def difference(one: Evaluation, other: Evaluation, metric: str) -> Difference | str:
    """The value of `one` less that of `other`, which is comparable, with an interval; or why there is none.

    By the jackknife: what is left out of one set is left out at once of the other where they are of the same
    seeds, and of the reference of both. KID leaves out each image in turn, the others tenths of each set.
    Their intervals are cautious and hold the truth at least 95 times in 100: the jackknife's variance errs
    upwards (Efron & Stein 1981), most for shares by nearest neighbours: up to about twice the width.
    """
    if metric != "kid" and metric not in _STATISTICS:
        return f"of a difference of {find_metric(metric).title} there is no sound interval"
    reference = kept(one.record["reference"]["sha256"])
    if reference is None:
        return "the features of the reference are kept no longer: `ddim evaluate` makes them again"
    mine, theirs = _features(one), _features(other)
    if mine is None or theirs is None:
        missing = one if mine is None else other
        return f"{missing.folder / FEATURES} is missing or is not of this record"
    seeds = [(of.record["sampling"] or {}).get("seeds") for of in (one, other)]
    paired = seeds[0] is not None and seeds[0] == seeds[1]
    if metric == "kid":
        return Difference(*kid_difference(mine, theirs, reference, paired=paired), paired)
    return Difference(*_jackknifed(_STATISTICS[metric], mine, theirs, reference), paired)


def differing(evaluations: Sequence[Evaluation]) -> dict[str, list[Any]]:
    """What differs between evaluations, by name: a value for each, None where it has none."""
    tables = [_choices(evaluation.record) for evaluation in evaluations]
    names = dict.fromkeys(name for table in tables for name in table)
    columns = {name: [table.get(name) for table in tables] for name in names}
    return {name: values for name, values in columns.items() if any(value != values[0] for value in values)}


def _jackknifed(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    one: np.ndarray,
    other: np.ndarray,
    reference: np.ndarray,
) -> tuple[float, float, float]:
    """A difference of statistics and its interval, by leaving out tenths of all three sets at once.

    Sets that are independent of one another add their variances so too: their tenths have nothing in common.
    """
    value = statistic(one, reference) - statistic(other, reference)
    # At random, since pictures may come class by class in turn; of pairs both are in the same tenth.
    sets = [(f, np.random.default_rng(0).permutation(len(f)) % _GROUPS) for f in (one, other, reference)]
    without = []
    for k in range(_GROUPS):
        a, b, truth = (features[tenth != k] for features, tenth in sets)
        without.append(statistic(a, truth) - statistic(b, truth))
    radius = _STUDENT_95 * math.sqrt((_GROUPS - 1) * float(np.var(without)))
    return value, value - radius, value + radius


def _features(evaluation: Evaluation) -> np.ndarray | None:
    """The features beside a record, a read-only memory map; None where they are missing or are others."""
    generated, path = evaluation.record["generated"], evaluation.folder / FEATURES
    shape = generated["images"], evaluation.record["features"]["dimensions"]
    try:
        features = np.lib.format.open_memmap(path, mode="r")
        # Older records do not say it.
        if "sha256" in generated and generated["sha256"] != hash_file(path):
            return None
    except (OSError, ValueError):
        return None
    return features if features.shape == shape and features.dtype == np.float32 else None


def _choices(record: dict[str, Any]) -> dict[str, Any]:
    """What an evaluation was asked for and of what model, flat, by name."""
    chosen: dict[str, Any] = {"pictures": record["generated"]["images"]}
    sampling = record["sampling"]
    if sampling is None:
        return chosen | {"source": record["generated"]["source"]}
    recipe = completed(sampling["recipe"])
    chosen |= _flat({name: sampling[name] for name in ("sampler", "grid", "weights", "nfe")})
    # Records from before there was guidance have none.
    chosen |= {"label": sampling.get("label"), "guidance": sampling.get("guidance", 1.0)}
    chosen |= {"steps": len(sampling["times"]), "first seed": min(sampling["seeds"], default=None)}
    chosen["images seen"] = sampling["step"] * recipe.get("optim", {}).get("batch", 1)
    return chosen | _flat({name: value for name, value in recipe.items() if name not in ("sampler", "grid")})


def _flat(table: dict[str, Any], path: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{path}{name}.") if isinstance(value, dict) else {f"{path}{name}": value}
    return flat
