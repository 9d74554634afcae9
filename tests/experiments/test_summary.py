"""Configurations, spreads over repeats, and which evaluations count."""

import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim.evaluation.conditions import evaluation_conditions
from ddim.evaluation.record import parse_evaluation
from ddim.experiments.evaluations import common_conditions, describe_mismatches, mark_comparable
from ddim.experiments.index import Run, sort_runs
from ddim.experiments.summary import (
    MISSING,
    group_runs,
    other_conditions,
    summarise_metrics,
    summarise_values,
)
from ddim.recipe.codec import dump, override
from ddim.recipe.named import smoke
from evaluated_runs import evaluation, record, run


def test_runs_that_differ_in_their_seed_alone_are_one_configuration():
    found = [run(seed=k, optim__lr=lr) for lr in (1e-3, 1e-4) for k in (0, 1, 2)]
    one, two = group_runs(found)
    assert (one.choice, two.choice) == ({"optim.lr": "0.001"}, {"optim.lr": "0.0001"})
    assert (one.runs, two.runs) == (tuple(found[:3]), tuple(found[3:]))
    assert (one.name, two.name) == ("0.001", "0.0001")


def test_a_single_configuration_is_named_after_its_recipe():
    (one,) = group_runs([run(seed=0), run(seed=1)])
    assert one.choice == {}
    assert one.name == "smoke"


def test_a_waiting_trial_without_its_number_of_classes_is_the_same_configuration():
    labelled = {"data__labels": "yes"}
    (one,) = group_runs([run(**labelled, net__classes=12), run(state="waiting", seed=1, **labelled)])
    assert one.choice == {}


def test_fields_that_only_one_kind_has_are_no_differences():
    found = [run(), run(schedule="linear")]
    assert [c.choice for c in group_runs(found)] == [{"schedule": "cosine"}, {"schedule": "linear"}]
    found.append(run(schedule="linear", schedule__clip="powers"))
    assert [c.choice for c in group_runs(found)] == [
        {"schedule": "cosine", "schedule.clip": MISSING},
        {"schedule": "linear", "schedule.clip": "none"},
        {"schedule": "linear", "schedule.clip": "powers"},
    ]


def test_a_trial_without_a_recipe_is_left_out():
    assert group_runs([Run("1", "waiting")]) == []


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12))
def test_a_spread_is_the_mean_and_the_sample_deviation(values):
    found = summarise_values(values, (0.0, 1.0))
    assert found.n == len(values)
    assert found.mean == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-6)
    assert found.deviation == pytest.approx(statistics.stdev(values), rel=1e-9, abs=1e-6)
    # The interval of one run is not that of a mean over several.
    assert found.interval is None


def test_a_single_number_has_its_own_interval_and_no_deviation():
    found = summarise_values([0.5], (0.4, 0.6))
    assert (found.mean, found.n, found.deviation, found.interval) == (0.5, 1, None, (0.4, 0.6))


def test_numbers_are_means_over_the_finished_repeats():
    found = [run(seed=k, errors={"image_mae": 0.1 * (k + 1)}) for k in range(2)]
    found.append(run(seed=2, state="stopped", errors={"image_mae": 9.0}))
    (one,) = group_runs(found)
    assert summarise_metrics(one, None)["image_mae"].mean == pytest.approx(0.15)
    assert summarise_metrics(one, None)["image_mae"].n == 2
    # If no run is finished, all count.
    (one,) = group_runs(found[2:])
    assert summarise_metrics(one, None)["image_mae"].mean == 9.0


def test_the_latest_evaluation_under_the_common_conditions_counts():
    found = [
        run(seed=0, evaluations=[evaluation(0.3), evaluation(0.1), evaluation(7.0, extractor="inception")]),
        run(seed=1, evaluations=[evaluation(0.2)]),
    ]
    common = common_conditions(found)
    assert common == evaluation_conditions(evaluation(), run().recipe)
    (one,) = group_runs(found)
    assert summarise_metrics(one, common)["kid"].mean == pytest.approx(0.15)
    assert other_conditions(one, common) == []


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"extractor": "inception"}, "different features (inception (weights wwwwwwww..., 224 px))"),
        ({"part": "train"}, "different reference (700 images of part train, 64x64)"),
        ({"samples": 500}, "different number of samples (500)"),
    ],
)
def test_an_evaluation_under_other_conditions_is_left_out_of_the_mean_and_described(changes, said):
    found = [
        *(run(seed=k, evaluations=[evaluation(0.1)]) for k in range(2)),
        run(seed=2, evaluations=[evaluation(0.9, **changes)]),
    ]
    common = common_conditions(found)
    (one,) = group_runs(found)
    assert summarise_metrics(one, common)["kid"].mean == pytest.approx(0.1)
    (other,) = other_conditions(one, common)
    assert describe_mismatches(other.mismatches(common)) == said


def test_each_seed_may_draw_its_own_validation_images():
    found = [run(seed=k, evaluations=[evaluation(0.1 * k, sha256=str(k))]) for k in (1, 2, 3)]
    (one,) = group_runs(found)
    assert summarise_metrics(one, common_conditions(found))["kid"].n == 3


def test_of_equally_common_conditions_those_with_more_samples_count():
    found = [run(evaluations=[evaluation(samples=100)]), run(seed=1, evaluations=[evaluation(samples=5000)])]
    assert common_conditions(found).images == 5000
    assert common_conditions(found[::-1]).images == 5000
    assert common_conditions([run()]) is None


def test_kid_and_fid_infinity_have_intervals():
    found = [run(evaluations=[evaluation(0.1, fid=40.0)])]
    (one,) = group_runs(found)
    numbers = summarise_metrics(one, common_conditions(found))
    assert numbers["kid"].interval == pytest.approx((0.09, 0.11))
    assert (numbers["fid"].mean, numbers["fid"].interval) == (40.0, None)
    assert (numbers["fid_infinity"].mean, numbers["fid_infinity"].interval) == (35.0, (34.0, 36.0))
    assert list(numbers) == ["kid", "fid", "fid_infinity"]


def test_other_places_of_the_same_images_are_no_differences():
    def trained(seed, images, source):
        return replace(run(seed=seed, data__source=source), facts={"data": {"fingerprint": images}})

    one, two, other = trained(0, "a", "/1/x.zip"), trained(1, "a", "/2/x.zip"), trained(2, "b", "/3/x.zip")
    (both,) = group_runs([one, two])
    assert both.choice == {}
    assert [each.choice for each in group_runs([two, other])] == [
        {"data.source": "/2/x.zip"},
        {"data.source": "/3/x.zip"},
    ]
    # The images of a run that has not started are unknown.
    assert len(group_runs([one, replace(two, facts={})])) == 2
    assert len(group_runs([replace(one, facts={}), replace(two, facts={})])) == 2


OTHERWISE = {
    "2 steps": {"times": [1.0] * 2},
    "weights raw": {"weights": "raw"},
    "label 3, guidance 2": {"label": 3, "guidance": 2.0},
    "sampler ddpm": {"recipe": dump(override(smoke(), {"sampler": "ddpm"}))},
    "sampler.s_churn 40": {"recipe": dump(override(smoke(), {"sampler": "edm", "sampler.s_churn": 40}))},
    "sampler.eta 1": {"recipe": dump(override(smoke(), {"sampler.eta": 1}))},
    "grid.sigma_min 0.5": {"recipe": dump(override(smoke(), {"grid": "karras", "grid.sigma_min": 0.5}))},
    "grid listed": {"recipe": dump(override(smoke(), {"grid": {"kind": "listed", "times": [1, 0.5]}}))},
    "clip true": {"recipe": dump(override(smoke(), {"clip": True}))},
}


@pytest.mark.parametrize("said", OTHERWISE)
def test_evaluations_with_other_sampling_options_are_not_comparable(said):
    odd = run(name="odd", optim__lr=1e-4, evaluations=(evaluation(0.01, **OTHERWISE[said]),))
    found = [run(seed=k, evaluations=(evaluation(0.3),)) for k in range(2)]
    common = common_conditions([*found, odd])
    two, one = group_runs([*found, odd])
    assert summarise_metrics(two, common)["kid"].mean == pytest.approx(0.3)
    assert "kid" not in summarise_metrics(one, common)
    (other,) = other_conditions(one, common)
    assert said in describe_mismatches(other.mismatches(common))
    *comparable, marked = mark_comparable([*found, odd])
    assert [(each.metrics["kid"], each.comparable) for each in comparable] == [(0.3, True)] * 2
    assert (marked.metrics["kid"], marked.comparable) == (0.01, False)
    assert "not comparable with the metrics of most runs: different sampling" in marked.why
    # A number that does not compare is shown, but not ranked.
    assert sort_runs([marked, *comparable], "kid")[-1] is marked


def test_runs_with_their_own_samplers_compare():
    """Each run is evaluated with its own recipe: a sweep may vary the sampler."""
    choice = {"sampler": "ddim", "sampler.eta": 1.0}
    other = dump(override(smoke(), choice))
    one = run(evaluations=(evaluation(0.3),))
    two = replace(run(evaluations=(evaluation(0.2, recipe=other),)), recipe=other)
    assert [each.metrics["kid"] for each in mark_comparable([one, two])] == [0.3, 0.2]


def test_samples_of_other_numbers_of_steps_do_not_compare():
    found = [run(steps=n, evaluations=(evaluation(n / 100, times=[1.0] * n),)) for n in (5, 50, 50)]
    assert [each.comparable for each in mark_comparable(found)] == [False, True, True]


def test_an_evaluation_of_an_earlier_step_of_a_finished_run_does_not_count():
    early, last = evaluation(0.1, step=30), evaluation(0.3)
    found = mark_comparable([run(evaluations=(last, early)), run(evaluations=(early,))])
    assert [(each.metrics["kid"], each.comparable) for each in found] == [(0.3, True), (0.1, False)]
    assert "of an earlier step" in found[1].why
    (started,) = mark_comparable([replace(run(evaluations=(early,)), state="stopped")])
    assert started.metrics["kid"] == 0.1


def test_two_runs_with_one_seed_are_duplicates():
    """A report on two sweeps that share a configuration has its first seed twice."""
    found = [run(seed=k, evaluations=(evaluation(0.3 + 0.2 * k),)) for k in (0, 0, 1)]
    (one,) = group_runs(found)
    assert one.runs == (found[0], found[2])
    assert one.duplicates == (found[1],)
    spread = summarise_metrics(one, common_conditions(found))["kid"]
    assert (spread.n, spread.mean) == (2, pytest.approx(0.4))
    (late,) = group_runs([replace(found[0], state="stopped"), found[1]])
    assert late.runs == (found[1],)


def test_grids_that_searches_found_count_as_equal():
    """Each run has its own times; and a field that a newer version added is no change."""
    searched = [dump(override(smoke(), {"grid": {"kind": "listed", "times": [1, t]}})) for t in (0.5, 0.4)]
    found = [run(seed=k, evaluations=(evaluation(0.3, recipe=recipe),)) for k, recipe in enumerate(searched)]
    assert [each.metrics["kid"] for each in mark_comparable(found)] == [0.3, 0.3]
    newer = {**dump(smoke()), "sampler": {**dump(smoke())["sampler"], "new": 1}}
    pair = evaluation(recipe=newer), evaluation()
    one, other = (evaluation_conditions(each, run().recipe) for each in pair)
    assert one == other


def started(source=None, sha256=None, images="c", **changes):
    """Return a run with the weights that it started from and its images."""
    facts = {"source": source, "data": {"fingerprint": images * 64}}
    return replace(run(**changes), facts=facts | ({"source_sha256": sha256 * 64} if sha256 else {}))


def choices(*found):
    return [dict(each.choice) for each in group_runs(found)]


def test_runs_from_other_weights_or_images_are_other_configurations():
    assert choices(started(), started("w")) == [{"from": "–"}, {"from": "w"}]
    assert choices(started("/home/ada/w"), started("/home/ada/v/best")) == [{"from": "w"}, {"from": "v/best"}]
    assert choices(started("/1/w", "a"), started("/2/w", "b")) == [
        {"checkpoint": "aaaaaaaa"},
        {"checkpoint": "bbbbbbbb"},
    ]
    assert choices(started("w", "a"), started("w", "b")) == [
        {"checkpoint": "aaaaaaaa"},
        {"checkpoint": "bbbbbbbb"},
    ]
    assert choices(started(images="a"), started(images="b")) == [
        {"fingerprint": "aaaaaaaa"},
        {"fingerprint": "bbbbbbbb"},
    ]


def test_unknown_weights_or_images_make_no_other_configuration():
    waiting = run(seed=2, state="waiting")
    assert choices(started("w", seed=0), started("w", seed=1), waiting) == [{}]
    # The second run does not say which checkpoint it started from.
    assert choices(started("w", "a", seed=0), started("w", seed=1)) == [{}]
    assert len(choices(started(images="a", seed=0), started(images="b", seed=1), waiting)) == 2


def test_fingerprints_differ_between_sizes_without_a_change_of_the_images():
    sized = [
        started(images=k, seed=n, data__size=size) for k, size in (("a", "32"), ("b", "64")) for n in (0, 1)
    ]
    waiting = run(seed=2, state="waiting", data__size="64")
    assert choices(*sized, waiting) == [{"data.size": "32,32"}, {"data.size": "64,64"}]


def test_of_equally_common_conditions_those_of_the_newest_evaluation_count():
    def evaluated(steps, day):
        found = record(0.1 * steps, times=[1.0] * steps)
        return parse_evaluation(Path(), found | {"time": f"2026-01-0{day}T00:00:00+00:00"})

    for order in ((5, 10, 20), (20, 10, 5), (10, 20, 5)):
        made = tuple(evaluated(n, day) for day, n in enumerate(order, 1))
        (kept,) = mark_comparable([run(evaluations=made)])
        assert kept.metrics["kid"] == pytest.approx(0.1 * order[-1])
        found = [run(seed=k, evaluations=(evaluated(n, k + 1),)) for k, n in enumerate(order)]
        assert common_conditions(found).sampling.steps == order[-1]
