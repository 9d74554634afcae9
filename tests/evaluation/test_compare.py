"""Comparisons of evaluations: differences with intervals, rankings, tables, and settings that differ."""

import csv
import math

import numpy as np
import pytest

import ddim
from ddim.errors import UserError
from ddim.evaluation.compare import compare, list_differing_choices, plot_table
from ddim.evaluation.measure import Difference, _jackknife, measure_difference
from ddim.evaluation.record import read_evaluation
from ddim.metrics.catalogue import METRICS
from ddim.metrics.fid import fid
from ddim.metrics.kid import kid_difference
from ddim.metrics.prdc import prdc
from ddim.sampling.sampling_setup import Guidance, save_guidance
from mine import Euler
from stubs import SAMPLING, stub, written


@pytest.fixture
def make(tmp_path):
    """Return a function that writes an evaluation, given a name, features and changes of its record."""
    return lambda name, rows=None, **changes: read_evaluation(written(tmp_path / name, rows, **changes))


def normal(n, seed, shift=0.0):
    return np.random.default_rng(seed).standard_normal((n, 12)).astype(np.float32) + np.float32(shift)


@pytest.fixture
def reference(monkeypatch):
    """Features of 500 reference images, which the cache returns for the reference of the records."""
    features = normal(500, 0)
    monkeypatch.setattr(
        "ddim.evaluation.measure.find_features",
        lambda identity, count: features if identity == "r" * 64 else None,
    )
    return features


# Rankings


def folders(table):
    return [cell.evaluation.folder.name for cell in table.cells]


@pytest.mark.parametrize("metric", METRICS)
def test_the_best_evaluation_is_ranked_first(make, metric):
    field = f"metrics__{metric}__value"
    evaluations = [make(name, **{field: value}) for name, value in (("a", 0.3), ("b", 0.1), ("c", 0.2))]
    order = ["b", "c", "a"] if METRICS[metric].lower_is_better else ["a", "c", "b"]
    assert folders(compare(evaluations, metric=metric)) == order


def test_evaluations_that_cannot_be_ranked_come_last_with_the_reason(make):
    best = make("best", metrics__kid={"value": -1.0, "low": -1.0, "high": -1.0}, reference__sha256="q" * 64)
    good = make("good", metrics__kid={"value": 0.001, "low": 0.0, "high": 0.002})
    for order in ([make("a"), best, good], [best, make("b"), good]):
        found = compare(order)
        assert folders(found)[0::2] == ["good", "best"]
        assert [cell.unranked is None for cell in found.cells] == [True, True, False]
        assert found.cells[2].remark.startswith("not ranked: the 500 held-out images")
        assert found.to_json()["first"].name in "ab"


def test_an_error_gives_the_reason_if_nothing_can_be_compared(make):
    with pytest.raises(UserError, match="nothing can be compared by KID: different features"):
        compare(make("a"), make("b", features__extractor="other"))


def test_runs_in_a_folder_are_compared_by_their_newest_evaluations(tmp_path, reference):
    for name, shift in (("good", 0.1), ("bad", 0.5), ("none", None)):
        run = tmp_path / "runs" / name
        (run / "checkpoints" / "step-000000001").mkdir(parents=True)
        if shift is not None:
            kid = {"value": shift, "low": shift - 0.01, "high": shift + 0.01}
            written(run / "evaluations" / "1", normal(400, len(name), shift), metrics__kid=kid)
    found = compare(tmp_path / "runs")
    assert found.rows == ["good", "bad"]
    assert found.missing == [tmp_path / "runs" / "none"]
    assert found.verdict == "good is better than bad: the difference is larger than chance"
    assert f"`ddim evaluate {tmp_path}/runs/none` makes one" in " ".join(found.details.split())


def test_a_comparison_has_numbers_and_notes_in_its_records(make, reference):
    first, better = make("first", normal(400, 1, 0.5)), make("better", normal(400, 2, 0.1))
    found = compare(first, better, make("featureless"), make("apart", reference__sha256="q" * 64))
    records = {record["folder"].name: record for record in found.to_records()}
    difference = next(cell.difference for cell in found.cells if cell.evaluation is better)
    ends = [records["better"][name] for name in ("difference", "difference_low", "difference_high", "note")]
    assert ends == [difference.value, difference.low, difference.high, str(difference)]
    assert "features.npy is missing" in records["featureless"]["note"]
    assert records["apart"]["note"].startswith("not ranked: ")
    # Both have the same distribution.
    assert "cannot be told apart" in compare(first, make("again", normal(400, 3, 0.5))).verdict


# Differences


def test_only_samples_of_the_same_seeds_are_paired(make, reference):
    x = normal(400, 1, 0.2)
    y = x + normal(400, 2) * np.float32(0.1)
    other_seeds = SAMPLING | {"seeds": list(range(1000, 1400))}
    one, same = make("a", x, sampling=SAMPLING), make("b", y, sampling=SAMPLING)
    others = [make("c", y, sampling=other_seeds), make("d", y)]
    radii = []
    for each in (same, *others):
        paired = each is same
        wanted = kid_difference(x, y, reference, paired=paired)
        found = measure_difference(one, each, "kid")
        assert found == Difference(**vars(wanted), paired=paired)
        radii.append(found.high - found.low)
    assert radii[0] < radii[1] / 2


def mean_apart(generated, reference):
    """A statistic with a known distribution; the mean of the reference cancels in a difference."""
    return float(generated[:, 0].mean() - reference[:, 0].mean())


def test_the_interval_of_a_difference_holds_the_truth_in_95_percent_of_cases():
    truth, draws = normal(100, 3), 1000
    held = 0
    for seed in range(draws):
        x, y = normal(200, 2 * seed, 0.3), normal(90, 2 * seed + 1)
        found = _jackknife(mean_apart, x, y, truth)
        assert found.value == pytest.approx(x[:, 0].mean() - y[:, 0].mean(), abs=1e-6)
        held += found.low <= 0.3 <= found.high
    # Within three and a half deviations of the count.
    assert abs(held / draws - 0.95) < 0.025


@pytest.mark.parametrize("statistic", [fid, lambda *sets: prdc(*sets).recall], ids=["fid", "recall"])
def test_intervals_of_other_differences_are_conservative_but_not_twice_too_wide(statistic):
    """Both sets have the same distribution, so the true difference is 0."""
    values, radii, held = [], [], 0
    for seed in range(60):
        x, y, truth = (normal(100, 3 * seed + k)[:, :4] for k in range(3))
        found = _jackknife(statistic, 0.9 * x, 0.9 * y, truth)
        values.append(found.value)
        radii.append((found.high - found.low) / 2)
        held += not found.distinguishable
    assert held >= 57
    # 2.262 is the 97.5 % quantile of Student's t with 9 degrees of freedom.
    assert 1 < np.mean(radii) / (2.262 * np.std(values)) < 2.2


def test_samples_that_cycle_through_classes_have_no_wider_interval():
    """With `--label all`, seed s has class s % classes: leaving out every tenth seed leaves out a class."""
    x, y, truth = normal(500, 1), normal(500, 2), normal(500, 3)
    for samples in (x, y):
        samples[:, 0] += 20 * (np.arange(500) % 10)
    found = _jackknife(mean_apart, x, y, truth)
    # In pairs of equal seeds the classes cancel, so the interval is that of two sets without classes.
    assert (found.high - found.low) / 2 < 3 * 1.96 * math.sqrt(2 / 500)
    found = _jackknife(mean_apart, x, y[::-1], truth)
    assert (found.high - found.low) / 2 < 3 * 1.96 * math.sqrt(2 * (400 * 8.25 + 1) / 500)


def test_only_the_choices_that_differ_are_listed(make):
    other = SAMPLING | {
        "recipe": {"name": "tiny", "data": {}, "optim": {"batch": 16, "lr": 0.1}, "sampler": {}, "grid": {}},
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


# Tables


def test_every_combination_is_an_evaluation_with_its_paired_difference_from_the_first_row(run):
    samplers = [ddim.DDIM(), ddim.DDIM(1.0), ddim.DDPM("large")]
    table = ddim.evaluate(run, n=40, steps=[1, 3], sampler=samplers, features=stub())
    assert table.rows == ["ddim eta 0", "ddim eta 1", "ddpm"]
    assert table.columns == ["1 steps", "3 steps"]
    cells = {(cell.row, cell.column): cell for cell in table.cells}
    base, cell = cells["ddim eta 0", "3 steps"], cells["ddim eta 1", "3 steps"]
    assert base.difference is None
    assert cell.difference == measure_difference(cell.evaluation, base.evaluation, "kid")
    assert cell.difference.paired
    alone = ddim.evaluate(run, n=40, steps=3, fields={"sampler": "ddim", "sampler.eta": "1"}, features=stub())
    assert cell.evaluation.record["metrics"] == alone.record["metrics"]
    # With one step, the sample is that of the network, whatever the noise of further steps.
    values = [cell.evaluation.value("kid") for cell in table.cells]
    assert len(set(values[0::2])) == 1
    rows = list(csv.DictReader((table.folder / "table.csv").read_text().splitlines()))
    assert [float(row["kid"]) for row in rows] == values
    assert float(rows[3]["difference_high"]) == cell.difference.high
    (axes,) = plot_table(table).axes
    drawn = [y for line in axes.lines for y in line.get_ydata()]
    assert set(values) <= set(drawn)
    # One star in each column.
    assert str(table).count("* 0.") == 2


def test_a_larger_table_computes_only_features_that_are_missing(run):
    first = ddim.evaluate(run, n=40, steps=[2, 3], features=stub())
    seen, said = [], []
    options = {"n": 40, "steps": [2, 3, 4], "progress": lambda *each: said.append(each)}
    more = ddim.evaluate(run, **options, features=stub(seen))
    assert sum(seen) == 40
    assert [c.evaluation.metrics for c in more.cells[:2]] == [c.evaluation.metrics for c in first.cells]
    assert said[-1] == ("samples", 120, 120)
    assert (more.rows, more.columns) == (["2 steps", "3 steps", "4 steps"], ["KID"])


def test_a_table_says_how_samples_were_made_and_ranks_no_values_of_too_few_images(run):
    save_guidance(run, ddim.DDIM(), 3, "ema", Guidance(2.0, None, "@raw"), labelled=False)
    ways = {
        "steps": 3,
        "sampler": [ddim.DDIM(), ddim.EDM(), Euler()],
        "metric": "precision",
        "searched": True,
    }
    table = ddim.evaluate(run, n=20, **ways, features=stub())
    efforts = ["6 NFE, guidance 2, guide @raw", "5 NFE", "3 NFE"]
    assert [record["sampling"] for record in table.to_records()] == efforts
    assert table.verdict.startswith("these values should not be ranked: 20 images are too few")
    assert str(table).count("not ranked") == 2
