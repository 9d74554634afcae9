"""The errors that runs reached: interpolated between what was measured, and nowhere else."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import run_folders
from ddim.experiments.learning_curves import (
    LearningCurve,
    interpolate_error,
    interpolate_kid,
    interpolate_recorded,
    list_own_curves,
    list_recorded_curves,
)
from ddim.experiments.recorded_runs import FIRST_VERSION, RECORDED
from ddim.metrics.catalogue import DEFAULT
from ddim.recipe.codec import dump, override
from ddim.recipe.named import fast, smoke
from stubs import SAMPLING, written

CURVE = LearningCurve("runs/a", "", 1000, ((10, 0.5), (100, 0.3), (1000, 0.2)), 0.1)


def test_a_measured_number_of_images_has_its_error():
    assert [interpolate_error([CURVE], n) for n in (10, 100, 1000)] == [0.5, 0.3, 0.2]


def test_the_error_is_linear_in_the_logarithm_of_the_images():
    # The geometric mean of the images has the arithmetic mean of the errors.
    assert interpolate_error([CURVE], 316) == pytest.approx(0.25, abs=1e-3)
    assert interpolate_error([CURVE], 32) == pytest.approx(0.4, abs=2e-3)


def test_nothing_is_extrapolated_but_the_inexactness_of_a_forecast():
    assert interpolate_error([CURVE], 1100) == 0.2
    assert interpolate_error([CURVE], 9) == 0.5
    for images in (8, 1200, 10**6):
        assert interpolate_error([CURVE], images) is None
    assert interpolate_error([], 100) is None
    assert interpolate_error([replace(CURVE, points=())], 100) is None


def test_the_ends_of_two_runs_count_before_the_way_of_the_longer_one():
    short = LearningCurve("runs/b", "", 100, ((10, 0.45), (100, 0.26)), None)
    assert interpolate_error([CURVE, short], 100) == 0.26
    assert interpolate_error([CURVE, short], 316) == pytest.approx(0.23, abs=1e-3)
    # Below both ends, the run counts whose end is nearest.
    assert interpolate_error([CURVE, short], 10) == 0.45


def test_the_end_of_a_short_trial_says_nothing_about_long_runs():
    trial = LearningCurve("runs/b", "", 20, ((20, 0.9),), 0.9)
    assert interpolate_error([CURVE, trial], 100) == 0.3
    assert interpolate_error([CURVE, trial], 20) == 0.9
    assert interpolate_kid([CURVE, trial], 100) is None
    assert interpolate_kid([CURVE, trial], 1000) == 0.1


def test_kid_is_known_at_the_ends_of_runs_whose_samples_are_made_alike():
    assert interpolate_kid([CURVE], 1000) == 0.1
    assert interpolate_kid([CURVE], 100) is None
    assert interpolate_kid([replace(CURVE, same_samples=False)], 1000) is None
    near = LearningCurve("b", "", 100, (), 0.3)
    assert interpolate_kid([CURVE, near], 316) == pytest.approx(0.2, rel=1e-3)


def test_recorded_runs_on_different_images_are_not_mixed():
    curves = [replace(CURVE, data="cats", points=((10, 0.9),)), replace(CURVE, data="dogs")]
    assert interpolate_recorded(interpolate_error, curves, 10) == 0.9
    assert interpolate_recorded(interpolate_error, curves, 100) == 0.3


def write_evaluation(folder, number, kid, **changes):
    """Write an evaluation of the last step of a run of recipe smoke, by default with its own sampling."""
    recipe = smoke()
    sampling = {**SAMPLING, "recipe": dump(recipe), "step": 60, "times": [1.0] * recipe.steps}
    fields = {"features__extractor": DEFAULT, "reference__fingerprint": "f", "sampling": sampling}
    metrics = {"kid": {"value": kid, "low": kid, "high": kid}}
    written(folder / "evaluations" / str(number), metrics=metrics, **{**fields, **changes})


@pytest.fixture
def own(tmp_path):
    """A finished run of recipe smoke; the folder of runs, and a function that changes its run.json."""
    folder = run_folders.make(tmp_path / "runs" / "a", step=60)
    write_evaluation(folder, 1, 0.07)

    def change(**facts):
        document = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**document, **facts}))

    change(data={"fingerprint": "f"})
    return tmp_path / "runs", change


def test_own_runs_of_the_same_images_and_recipe_are_found(own):
    runs, _ = own
    for changed in ({}, {"seed": 3}, {"images": 5}, {"report.events": 9}, {"data.source": "moved"}):
        (curve,) = list_own_curves(runs, override(smoke(), changed), "f")
        assert (curve.name, curve.images, curve.kid) == (str(runs / "a"), 960, 0.07)
        assert curve.points == ((960, run_folders.ERRORS["image_mae"]),)


def test_runs_of_other_images_or_recipes_are_not(own, tmp_path):
    runs, change = own
    assert list_own_curves(runs, smoke(), "other") == []
    for changed in ({"optim.lr": 0.1}, {"net.widths": "8,16,32"}, {"data.validation": 0.5}):
        assert list_own_curves(runs, override(smoke(), changed), "f") == []
    change(source="runs/parent")
    assert list_own_curves(runs, smoke(), "f") == []
    assert list_own_curves(tmp_path / "nowhere", smoke(), "f") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling__guidance": 2.0},
        {"sampling__weights": "raw"},
        {"sampling__recipe": dump(override(smoke(), {"sampler": "edm"}))},
        {"reference__part": "train"},
    ],
)
def test_kid_is_that_of_the_default_sampling_and_features_against_held_out_images(own, changes):
    runs, _ = own
    for number in (2, 3):
        write_evaluation(runs / "a", number, 0.01, generated__images=4000, **changes)
    (curve,) = list_own_curves(runs, smoke(), "f")
    assert curve.kid == 0.07


def test_the_kid_of_a_run_with_class_folders_is_that_of_all_classes(tmp_path):
    folder = run_folders.make(tmp_path / "runs" / "a", step=60, data__labels=True)
    recipe = override(smoke(), {"data.labels": True})
    document = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**document, "data": {"fingerprint": "f"}}))
    for number, label in ((1, "all"), (2, 1)):
        write_evaluation(folder, number, 0.1 * number, sampling__label=label, sampling__recipe=dump(recipe))
    (curve,) = list_own_curves(tmp_path / "runs", recipe, "f")
    assert curve.kid == 0.1


def test_the_sampler_matters_for_kid_alone(own):
    (curve,) = list_own_curves(own[0], override(smoke(), {"steps": 9, "sampler": "edm"}), "f")
    assert interpolate_error([curve], 960) == run_folders.ERRORS["image_mae"]
    assert interpolate_kid([curve], 960) is None


def test_runs_that_are_not_finished_are_left_out(own):
    runs, _ = own
    folder = run_folders.make(runs / "b", step=30, data__source="blossoms:1024")
    document = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**document, "data": {"fingerprint": "f"}}))
    assert [curve.name for curve in list_own_curves(runs, smoke(), "f")] == [str(runs / "a")]


def test_recorded_runs_have_the_recipe_and_the_size():
    other = {"seed": 1, "minutes": 7, "data.source": "photos"}
    (curve,) = list_recorded_curves(override(fast(), other))
    assert (curve.data, curve.images) == ("flowers", 312_000)
    assert interpolate_kid([curve], 312_000) == 0.0605
    (first,) = list_recorded_curves(override(fast(), {**FIRST_VERSION, **other}))
    assert interpolate_error([first], 42_576) == 0.225
    assert interpolate_kid([first], 212_864) == 0.096
    assert list_recorded_curves(override(fast(), {"optim.batch": 16})) == []
    assert list_recorded_curves(fast((128, 128))) == []


def test_the_recorded_numbers_are_those_of_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "results" / "fast.md").read_text()
    for run in RECORDED:
        heading = run.source.removeprefix("docs/results/fast.md, ")
        section = page[page.index(f"\n## {heading}\n") :].split("\n## ")[1]
        assert f"{run.images:,}" in section or f"--images {run.images} " in section
        assert run.kid is None or str(run.kid) in section
        if len(run.points) < 2:
            assert all(str(error) in section for _, error in run.points)
            continue
        images, errors = (
            re.findall(r"[\d.]+", row.replace(",", ""))
            for row in re.findall(r"^\| (?:images|image MAE) \|(.*)\|$", section, re.MULTILINE)
        )
        assert run.points == tuple(zip(map(int, images), map(float, errors), strict=True))
        assert f"**{run.kid} ± " in section
        said = f"It saw {run.images:,} training images", f"`ddim train flowers64.zip --images {run.images} "
        assert any(text in section for text in said)
