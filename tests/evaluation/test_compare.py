"""Comparisons of evaluations: ranking, differences with intervals, and settings that differ."""

import math

import numpy as np
import pytest

from ddim.errors import UserError
from ddim.evaluation.compare import (
    Difference,
    _jackknife,
    compare,
    list_differing_choices,
    measure_difference,
    rank_evaluations,
)
from ddim.evaluation.record import read_evaluation
from ddim.metrics.catalogue import METRICS
from ddim.metrics.fid import fid
from ddim.metrics.kid import kid_difference
from ddim.metrics.prdc import prdc
from stubs import SAMPLING, written

ALONE = ("fid_infinity",)
"""Metrics without an interval of a difference."""


@pytest.fixture
def make(tmp_path):
    """Return a function that writes an evaluation, given a name, features and changes of its record."""
    return lambda name, features=None, **changes: read_evaluation(
        written(tmp_path / name, features, **changes)
    )


def normal(n, seed, shift=0.0):
    return np.random.default_rng(seed).standard_normal((n, 12)).astype(np.float32) + np.float32(shift)


@pytest.fixture
def reference(monkeypatch):
    """Features of 500 reference images, which the cache returns for the reference of the records."""
    features = normal(500, 0)
    monkeypatch.setattr(
        "ddim.evaluation.compare.find_features",
        lambda identity, count: features if identity == "r" * 64 else None,
    )
    return features


@pytest.mark.parametrize("metric", METRICS)
def test_the_best_evaluation_is_ranked_first(make, metric):
    field = "metrics__fid__infinity" if metric == "fid_infinity" else f"metrics__{metric}__value"
    made = [make(name, **{field: value}) for name, value in (("a", 0.3), ("b", 0.1), ("c", 0.2))]
    order = [row.evaluation.folder.name for row in rank_evaluations(made, metric)]
    small = metric in ("kid", "fid", "fid_infinity")
    assert order == (["b", "c", "a"] if small else ["a", "c", "b"])


def test_evaluations_that_cannot_be_ranked_come_last_with_the_reason(make):
    made = [
        make("a"),
        make("best", metrics__kid={"value": -1.0, "low": -1.0, "high": -1.0}, reference__sha256="q" * 64),
        make("c", metrics__kid={"value": 0.001, "low": 0.0, "high": 0.002}),
    ]
    rows = rank_evaluations(made, "kid")
    assert [row.evaluation.folder.name for row in rows] == ["c", "a", "best"]
    assert [row.unranked is None for row in rows] == [True, True, False]
    assert rows[2].unranked.startswith("different images of 500")
    assert rows[2].difference is None


def test_an_error_gives_the_reason_if_nothing_can_be_compared(make):
    with pytest.raises(UserError, match="nothing can be compared by KID: different features"):
        compare(make("a"), make("b", features__extractor="other"))
    for given in ((make("c"),), ([make("d")],)):
        with pytest.raises(UserError, match="at least two evaluations, got 1: evaluate another run"):
            compare(*given)
    with pytest.raises(UserError, match="metric must be one of kid, .*'FIT'; perhaps you meant fid"):
        compare(make("e"), make("f"), metric="FIT")


def test_runs_in_a_folder_are_compared_by_their_newest_evaluations(tmp_path, reference):
    for name, shift in (("good", 0.1), ("bad", 0.5), ("none", None), ("other", 0.1)):
        run = tmp_path / "runs" / name
        (run / "checkpoints" / "step-000000001").mkdir(parents=True)
        changes = {"reference__sha256": "q" * 64} if name == "other" else {}
        if shift is not None:
            kid = {"value": shift, "low": shift - 0.01, "high": shift + 0.01}
            features = normal(400, len(name), shift)
            written(run / "evaluations" / "1", features, metrics__kid=kid, **changes)
    found = compare(tmp_path / "runs")
    assert found.names == ["good", "bad", "other"]
    assert found.verdict == "good is better than bad: the difference is larger than chance"
    assert found.missing == [tmp_path / "runs" / "none"]
    assert f"`ddim evaluate {tmp_path}/runs/none` makes one" in " ".join(found.details.split())
    assert "not ranked: different images of" in " ".join(found.details.split())
    assert found.to_json()["rows"][0]["evaluation"] == "good"


def test_what_may_be_chance_is_said_first(make, reference):
    one, other = make("a", normal(400, 1)), make("b", normal(400, 2), generated__source="runs/b")
    assert "cannot be told apart" in repr(compare(one, other)).splitlines()[0]


def test_only_samples_of_the_same_seeds_are_paired(make, reference):
    x = normal(400, 1, 0.2)
    y = x + normal(400, 2) * np.float32(0.1)
    one = make("a", x, sampling=SAMPLING)
    same = make("b", y, sampling=SAMPLING)
    other = make("c", y, sampling=SAMPLING | {"seeds": list(range(1000, 1400))})
    images = make("d", y)
    paired, unpaired = measure_difference(one, same, "kid"), measure_difference(one, other, "kid")
    for found in (paired, unpaired):
        wanted = kid_difference(x, y, reference, paired=found is paired)
        assert found == Difference(wanted.value, wanted.low, wanted.high, found is paired)
    assert paired.value == unpaired.value
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 2
    assert (
        measure_difference(images, one, "kid").paired
        is measure_difference(images, images, "kid").paired
        is False
    )


def test_a_comparison_has_numbers_in_its_records_and_sentences_in_its_text(make, reference):
    first = make("first", normal(400, 1, 0.5))
    others = [make("better", normal(400, 2, 0.1)), make("featureless")]
    found = compare(first, *others, make("apart", reference__sha256="q" * 64))
    records = {record["folder"].rsplit("/")[-1]: record for record in found.to_records()}
    better = next(row.difference for row in found.rows if row.evaluation is others[0])
    ends = [records["better"][name] for name in ("difference", "difference_low", "difference_high", "note")]
    assert ends == [better.value, better.low, better.high, None]
    assert records["first"]["note"] == "the first"
    assert "features.npy is missing" in records["featureless"]["note"]
    assert records["apart"]["note"].startswith("not ranked: ")
    assert str(better) in " ".join(found.details.split())
    assert "larger than chance" in repr(found)


def mean_apart(generated, reference):
    """A statistic with a known distribution; the mean of the reference cancels in a difference."""
    return float(generated[:, 0].mean() - reference[:, 0].mean())


def test_the_interval_of_a_difference_holds_the_truth_in_95_percent_of_cases():
    truth, draws = normal(100, 3), 1000
    held = 0
    for seed in range(draws):
        x, y = normal(200, 2 * seed, 0.3), normal(90, 2 * seed + 1)
        value, low, high = _jackknife(mean_apart, x, y, truth)
        assert value == pytest.approx(x[:, 0].mean() - y[:, 0].mean(), abs=1e-6)
        held += low <= 0.3 <= high
    # Within three and a half deviations of the count.
    assert abs(held / draws - 0.95) < 0.025


@pytest.mark.parametrize("statistic", [fid, lambda *sets: prdc(*sets).recall], ids=["fid", "recall"])
def test_intervals_of_other_differences_are_conservative_but_not_twice_too_wide(statistic):
    """Both sets have the same distribution, so the true difference is 0."""
    values, radii, held = [], [], 0
    for seed in range(60):
        x, y, truth = (normal(100, 3 * seed + k)[:, :4] for k in range(3))
        value, low, high = _jackknife(statistic, 0.9 * x, 0.9 * y, truth)
        values.append(value)
        radii.append((high - low) / 2)
        held += low <= 0 <= high
    assert held >= 57
    # 2.262 is the 97.5 % quantile of Student's t with 9 degrees of freedom.
    assert 1 < np.mean(radii) / (2.262 * np.std(values)) < 2.2


def test_samples_that_cycle_through_classes_have_no_wider_interval():
    """With `--label all`, seed s has class s % classes: leaving out every tenth seed leaves out a class."""
    x, y, truth = normal(500, 1), normal(500, 2), normal(500, 3)
    for samples in (x, y):
        samples[:, 0] += 20 * (np.arange(500) % 10)
    _, low, high = _jackknife(mean_apart, x, y, truth)
    # In pairs of equal seeds the classes cancel, so the interval is that of two sets without classes.
    assert (high - low) / 2 < 3 * 1.96 * math.sqrt(2 / 500)
    _, low, high = _jackknife(mean_apart, x, y[::-1], truth)
    assert (high - low) / 2 < 3 * 1.96 * math.sqrt(2 * (400 * 8.25 + 1) / 500)


@pytest.mark.parametrize("metric", [name for name in METRICS if name not in ("kid", *ALONE)])
def test_every_other_metric_has_a_difference_with_an_interval(make, reference, metric):
    one, other = make("a", normal(400, 1, 0.1)), make("b", normal(400, 2, 1.0))
    found = measure_difference(one, other, metric)
    assert found.low < found.value < found.high
    better = found.high < 0 if METRICS[metric].lower_is_better else found.low > 0
    # Recall and coverage need not fall; the others do, beyond doubt.
    assert better or metric in ("recall", "coverage")


def test_missing_features_give_a_reason_instead_of_a_difference(make, reference, monkeypatch):
    one = make("a", normal(400, 1))
    assert "b/features.npy is missing" in measure_difference(one, make("b"), "kid")
    monkeypatch.setattr("ddim.evaluation.compare.find_features", lambda identity, count: None)
    assert "no longer in the cache" in measure_difference(one, one, "kid")


def test_only_the_choices_that_differ_are_listed(make):
    other = SAMPLING | {
        "recipe": {"name": "tiny", "optim": {"batch": 16, "lr": 0.1}, "sampler": {}, "grid": {}},
        "sampler": {"kind": "ddpm"},
        "times": [1.0, 0.5, 0.2],
        "nfe": 3,
    }
    assert list_differing_choices([make("a", sampling=SAMPLING), make("b", sampling=other)]) == {
        "sampler": ["ddim", "ddpm"],
        "sampler.eta": [0.0, None],
        "nfe": [2, 3],
        "steps": [2, 3],
        "images seen": [80, 160],
        "optim.batch": [8, 16],
    }
    assert list_differing_choices([make("c"), make("d")]) == {}
