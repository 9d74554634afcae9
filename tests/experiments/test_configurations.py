"""Runs in configurations: which are repeats, what counts as their metric, and which is best."""

import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim.evaluation.record import parse_evaluation
from ddim.experiments.configurations import group_runs, rank_configurations
from ddim.experiments.evaluations import mark_comparable
from ddim.experiments.index import Run
from ddim.recipe.codec import dump, override
from ddim.recipe.named import smoke
from evaluated_runs import evaluation, record, run


def choices(*runs):
    return [dict(row.choice) for row in group_runs(runs)]


def test_runs_that_differ_in_their_seed_alone_are_one_configuration():
    runs = [run(f"{lr}-{k}", seed=k, optim__lr=lr) for lr in (1e-3, 1e-4) for k in (0, 1, 2)]
    one, two = group_runs(runs)
    assert (one.choice, two.choice) == ({"optim.lr": "0.001"}, {"optim.lr": "0.0001"})
    assert (one.runs, two.runs) == (runs[:3], runs[3:])
    assert (one.name, two.name) == ("0.001-0 (3 seeds)", "0.0001-0 (3 seeds)")
    assert group_runs([Run(Path("1"), "waiting")]) == []


def test_fields_that_only_one_kind_has_are_no_differences():
    runs = [run("a"), run("b", schedule="linear")]
    assert choices(*runs) == [{"schedule": "cosine"}, {"schedule": "linear"}]
    assert choices(*runs, run("c", schedule="linear", schedule__clip="powers")) == [
        {"schedule": "cosine", "schedule.clip": "–"},
        {"schedule": "linear", "schedule.clip": "none"},
        {"schedule": "linear", "schedule.clip": "powers"},
    ]


def started(images, source, weights=None, **changes):
    facts = {"data": {"fingerprint": images * 64}}
    facts |= {"source": weights, "source_sha256": "s" * 64} if weights else {}
    return replace(run(source, data__source=source, **changes), facts=facts)


def test_other_images_and_other_first_weights_are_differences_and_other_paths_are_not():
    one, two, other = started("a", "/1/x.zip"), started("a", "/2/y.zip"), started("b", "/3/x.zip")
    assert choices(one, two) == [{}]
    assert choices(one, other) == [{"data.source": "x.zip (aaaaaaaa)"}, {"data.source": "x.zip (bbbbbbbb)"}]
    taught = started("a", "/4/x.zip", weights="/home/ada/w/best")
    assert choices(one, taught) == [{"from": "–"}, {"from": "w/best (ssssssss)"}]
    sized = [started(k, f"/{k}/x.zip", data__size=size) for k, size in (("a", "32"), ("b", "64"))]
    assert choices(*sized) == [{"data.size": "32,32"}, {"data.size": "64,64"}]
    extended = replace(one, path=Path("z"), total=3696, facts=one.facts | {"extended": 3696})
    assert [choice["images"] for choice in choices(one, extended)] == ["960", "3696"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12))
def test_the_score_of_repeats_is_the_mean_and_the_sample_deviation(values):
    runs = [run(str(k), seed=k, errors={"image_mae": value}) for k, value in enumerate(values)]
    (row,) = group_runs([*runs, run("late", seed=99, state="stopped", errors={"image_mae": 9e9})])
    score = row.score("image_mae")
    assert score.value == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-6)
    if len(values) > 1:
        assert score.deviation == pytest.approx(statistics.stdev(values), rel=1e-9, abs=1e-6)
        # The interval of one run is not that of a mean over several.
        assert score.interval is None


def test_two_runs_with_one_seed_are_duplicates():
    """A report on two sweeps that share a configuration has its first seed twice."""
    runs = [run(str(n), seed=k, errors={"image_mae": 0.3 + 0.2 * n}) for n, k in enumerate((0, 0, 1))]
    (row,) = group_runs(runs)
    assert (row.runs, row.duplicates) == ([runs[0], runs[2]], [runs[1]])
    (late,) = group_runs([replace(runs[0], state="stopped"), runs[1]])
    assert late.runs == [runs[1]]


OTHERWISE = {
    "features": {"extractor": "inception"},
    "reference (700 images of part train, 64x64)": {"part": "train"},
    "number of samples (500)": {"samples": 500},
    "sampling (2 steps": {"times": [1.0] * 2},
    "weights raw": {"weights": "raw"},
    "label 3, guidance 2": {"label": 3, "guidance": 2.0},
    "sampler ddpm": {"recipe": dump(override(smoke(), {"sampler": "ddpm"}))},
    "sampler.eta 1": {"recipe": dump(override(smoke(), {"sampler.eta": 1}))},
    "clip true": {"recipe": dump(override(smoke(), {"clip": True}))},
    "earlier step": {"step": 30},
}


@pytest.mark.parametrize("said", OTHERWISE)
def test_an_evaluation_under_other_conditions_is_left_out_and_described(said):
    runs = [run(str(k), seed=k, evaluations=(evaluation(0.3 + 0.1 * k),)) for k in range(2)]
    odd = run("odd", seed=2, evaluations=(evaluation(0.01, **OTHERWISE[said]),))
    *comparable, marked = mark_comparable([*runs, odd])
    assert [each.comparable for each in comparable] == [True, True]
    assert (marked.metrics["kid"], marked.comparable) == (0.01, False)
    assert said in marked.why
    (row,) = group_runs([*comparable, marked])
    assert row.score("kid").value == pytest.approx(0.35)


def test_the_newest_evaluation_under_the_most_common_conditions_counts():
    one = run("1", evaluations=[evaluation(0.3), evaluation(0.1), evaluation(7.0, extractor="inception")])
    two = run("2", seed=1, evaluations=[evaluation(0.2, sha256="other held-out images of this seed")])
    assert [each.metrics["kid"] for each in mark_comparable([one, two])] == [0.1, 0.2]
    # Of equally common conditions, those with more samples count, then those of the newest evaluation.
    few, many = (run(str(n), evaluations=[evaluation(samples=n)]) for n in (100, 5000))
    assert [each.comparable for each in mark_comparable([few, many])] == [False, True]
    for order in ((5, 10, 20), (20, 10, 5), (10, 20, 5)):
        dated = [
            parse_evaluation(Path(), record(0.1 * n, times=[1.0] * n) | {"time": f"2026-01-0{day}"})
            for day, n in enumerate(order, 1)
        ]
        (kept,) = mark_comparable([run(evaluations=dated)])
        assert kept.metrics["kid"] == pytest.approx(0.1 * order[-1])


def test_runs_compare_that_sample_by_their_recipes_or_by_their_searched_grids():
    """A sweep may vary the sampler; each run has its own searched times."""
    other = dump(override(smoke(), {"sampler": "ddim", "sampler.eta": 1.0}))
    two = replace(run("two", evaluations=(evaluation(0.2, recipe=other),)), recipe=other)
    assert all(each.comparable for each in mark_comparable([run(evaluations=(evaluation(0.3),)), two]))
    searched = [dump(override(smoke(), {"grid": {"kind": "listed", "times": [1, t]}})) for t in (0.5, 0.4)]
    runs = [run(str(k), evaluations=(evaluation(0.3, recipe=each),)) for k, each in enumerate(searched)]
    assert all(each.comparable for each in mark_comparable(runs))


def ranked(runs, metric):
    return [row.name for row in rank_configurations(group_runs(mark_comparable(runs)), metric)]


def test_the_best_configuration_has_the_lowest_mean_of_its_finished_runs():
    runs = [
        run(name, state, {"image_mae": mae}, (evaluation(kid, fid=9.0),), optim__lr=mae)
        for name, state, mae, kid in (
            ("a", "finished", 0.2, 0.3),
            ("b", "finished", 0.3, 0.1),
            ("c", "stopped", 0.1, 0.01),
        )
    ]
    assert ranked(runs, "image_mae") == ["a", "b"]
    assert ranked(runs, "kid") == ["b", "a"]
    assert ranked(runs[:1], "kid") == ranked([runs[0], runs[0]], "kid") == []
    # A FID needs as many images as there are features, 1280; here the reference has 700.
    assert ranked(runs, "fid") == []


def test_errors_in_other_units_and_runs_on_other_images_are_not_ranked():
    def pair(**changes):
        return [run("a", errors={"image_mae": 0.1}), run("b", errors={"image_mae": 0.2}, **changes)]

    assert ranked(pair(optim__lr=0.1), "image_mae") == ["a", "b"]
    for changes in ({"schedule": "linear"}, {"data__source": "pets"}, {"report__validation_images": 8}):
        assert ranked(pair(**changes), "image_mae") == []
