"""Reports on runs: which runs are repeats, what counts as their metric, which is best, and the page."""

import base64
import io
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image
from scipy import stats

import ddim
from ddim.errors import UserError
from ddim.evaluation.record import parse_evaluation
from ddim.experiments import report
from ddim.experiments.index import Run, mark_comparable
from ddim.plots.pictures import GAP, make_sheet, save_png, to_uint8
from ddim.recipe.codec import dump, override
from ddim.recipe.named import smoke
from evaluated_runs import evaluation, record, run, write_record
from html_reader import Reader
from run_folders import make

pytestmark = pytest.mark.usefixtures("blank_figures")


def group(*runs):
    return report.group_runs(runs, {run.path: run.path.name for run in runs})


def choices(*runs):
    return [dict(row.choice) for row in group(*runs)]


def test_runs_that_differ_in_their_seed_alone_are_one_configuration():
    runs = [run(f"{lr}-{k}", seed=k, optim__lr=lr) for lr in (1e-3, 1e-4) for k in (0, 1, 2)]
    one, two = group(*runs)
    assert (one.choice, two.choice) == ({"optim.lr": "0.001"}, {"optim.lr": "0.0001"})
    assert (one.runs, two.runs) == (runs[:3], runs[3:])
    assert (one.name, two.name) == ("0.001-0 (3 seeds)", "0.0001-0 (3 seeds)")
    # A run with the recipe and the seed of another one does not count, unless it alone is finished.
    again = run("again", seed=0, optim__lr=1e-3)
    assert group(*runs[:3], again)[0].runs == runs[:3]
    assert group(replace(runs[0], state="stopped"), again)[0].runs == [again]
    assert group(Run(Path("1"), "waiting")) == []


def test_fields_that_only_one_kind_has_are_no_differences():
    runs = [run("a"), run("b", schedule="linear")]
    assert choices(*runs) == [{"schedule": "cosine"}, {"schedule": "linear"}]
    assert choices(*runs, run("c", schedule="linear", schedule__clip="powers")) == [
        {"schedule": "cosine", "schedule.clip": "–"},
        {"schedule": "linear", "schedule.clip": "none"},
        {"schedule": "linear", "schedule.clip": "powers"},
    ]


def test_other_images_and_other_first_weights_are_differences_and_other_paths_are_not():
    def started(images, source, weights=None, **changes):
        facts = {"data": {"fingerprint": images * 64}}
        facts |= {"source": weights, "source_sha256": "s" * 64} if weights else {}
        return replace(run(source, data__source=source, **changes), facts=facts)

    one, two, other = started("a", "/1/x.zip"), started("a", "/2/y.zip"), started("b", "/3/x.zip")
    assert choices(one, replace(two, recipe=one.recipe)) == [{}]
    assert choices(one, other) == [{}, {}]
    assert choices(one, two) == [{"data.source": "x.zip"}, {"data.source": "y.zip"}]
    taught = started("a", "/4/x.zip", weights="/home/ada/w/best")
    assert choices(one, taught) == [{"from": "–"}, {"from": "w/best (ssssssss)"}]
    extended = replace(one, path=Path("z"), total=3696, facts=one.facts | {"extended": 3696})
    assert [choice["images"] for choice in choices(one, extended)] == ["960", "3696"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12))
def test_the_score_of_repeats_is_the_mean_and_its_interval_by_students_t(values):
    runs = [run(str(k), seed=k, errors={"image_mae": value}) for k, value in enumerate(values)]
    (row,) = group(*runs, run("late", seed=99, state="stopped", errors={"image_mae": 9e9}))
    score = row.scores["image_mae"]
    assert score.value == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-6)
    error = statistics.stdev(values) / len(values) ** 0.5
    low, high = stats.t.interval(0.95, len(values) - 1, statistics.fmean(values), error or 1e-300)
    assert (score.low, score.high) == pytest.approx((low, high), rel=1e-9, abs=1e-5)


def test_equal_configurations_are_seldom_called_different():
    """Two seeds each, with the same mean and deviation; by means ± deviations it was 22 %."""
    draws = np.random.default_rng(0).normal(1.0, 0.1, (400, 4))
    different = 0
    for errors in draws:
        runs = [
            run(str(k), seed=k, optim__lr=1 + k // 2, errors={"image_mae": error})
            for k, error in enumerate(errors)
        ]
        ranked = report.rank_configurations(group(*runs), "image_mae")
        different += report.describe_doubt(ranked, "image_mae") == ""
    assert different < 0.08 * len(draws)


OTHERWISE = {
    "reference (700 training images of photos, 64x64": {"part": "train"},
    "number of samples (500)": {"samples": 500},
    "sampling (2 steps": {"times": [1.0] * 2},
    "sampler.eta 1": {"recipe": dump(override(smoke(), {"sampler.eta": 1}))},
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
    (row,) = group(*comparable, marked)
    assert row.scores["kid"].value == pytest.approx(0.35)


def test_the_newest_evaluation_under_the_most_common_conditions_counts():
    one = run("1", evaluations=[evaluation(0.3), evaluation(0.1), evaluation(7.0, extractor="inception")])
    two = run("2", seed=1, evaluations=[evaluation(0.2, sha256="other held-out images of this seed")])
    assert [each.metrics["kid"] for each in mark_comparable([one, two])] == [0.1, 0.2]
    # Of equally common conditions, those with more samples count, then those of the newest evaluation.
    few, many = (run(str(n), evaluations=[evaluation(samples=n)]) for n in (100, 5000))
    assert [each.comparable for each in mark_comparable([few, many])] == [False, True]
    for order in ((5, 10, 20), (20, 10, 5)):
        made = [record(0.1 * n, times=[1.0] * n) | {"time": f"2026-01-0{k}"} for k, n in enumerate(order, 1)]
        (kept,) = mark_comparable([run(evaluations=[parse_evaluation(Path(), each) for each in made])])
        assert kept.metrics["kid"] == pytest.approx(0.1 * order[-1])


def rank(runs, metric):
    return [row.name for row in report.rank_configurations(group(*mark_comparable(runs)), metric)]


def test_the_best_configuration_has_the_lowest_mean_of_its_finished_runs():
    table = {"a": ("finished", 0.2, 0.3), "b": ("finished", 0.3, 0.1), "c": ("stopped", 0.1, 0.01)}
    runs = [
        run(name, state, {"image_mae": mae}, (evaluation(kid, fid=9.0),), optim__lr=mae)
        for name, (state, mae, kid) in table.items()
    ]
    assert rank(runs, "image_mae") == ["a", "b"]
    assert rank(runs, "kid") == ["b", "a"]
    assert rank(runs[:1], "kid") == []
    # A FID needs as many images as there are features, 1280; here the reference has 700.
    assert rank(runs, "fid") == []


@pytest.mark.parametrize(
    "changes", [{"schedule": "linear"}, {"data__source": "pets"}, {"report__validation_images": 8}]
)
def test_errors_in_other_units_and_runs_on_other_images_are_not_ranked(changes):
    pair = [run("a", errors={"image_mae": 0.1}), run("b", errors={"image_mae": 0.2}, **changes)]
    assert rank(pair, "image_mae") == []


# The page


def images(n, height, width, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, height, width), generator=draw, dtype=torch.uint8)


@pytest.fixture
def runs(tmp_path):
    """Two configurations, one with two seeds, one with an unfinished run; all have samples."""
    root = tmp_path / "runs"
    for seed, error in ((0, 0.25), (1, 0.35)):
        make(root / f"a{seed}", seed=seed, errors={"image_mae": error, "noise_mae": 0.5})
        write_record(root / f"a{seed}" / "evaluations" / "1", record(kid=0.0001 * (seed + 1)))
    make(root / "b<0>", seen=(480,), optim__lr=1e-4, errors={"image_mae": 0.2})
    for k, folder in enumerate(sorted(root.iterdir())):
        for step in (30, 60):
            file = folder / "samples" / f"step-{step:09d}.png"
            file.parent.mkdir(exist_ok=True)
            save_png(file, make_sheet(images(4, 32, 32, seed=10 * k + step)))
    return root


def test_the_table_has_a_row_for_each_configuration(runs):
    found = ddim.report(runs)
    several = ["a0 (2 seeds)", "0.002", "0.3000 ± 0.6353", "0.5000 ± 0.0000", "0.00015 ± 0.00064"]
    lines = [line.split("  ") for line in str(found).splitlines()[3:]]
    assert [[cell.strip() for cell in line if cell] for line in lines] == [
        [*several, "2 of 2 finished"],
        ["b<0>", "0.0001", "0.2000", "–", "–", "stopped"],
    ]
    assert found.verdict == "2 of 3 runs finished; nothing to rank yet"
    assert found.to_records()[0]["kid"] == pytest.approx(0.00015)
    write_record(make(runs / "c", optim__lr=1.0, errors={}) / "evaluations" / "1", record(kid=0.25))
    best = "closest to real images: a0 (2 seeds), KID 0.00015 ± 0.00064; 1 of 1 others may be as good"
    assert ddim.report(runs).verdict == best
    write_record(make(runs / "d", optim__lr=2.0, errors={}) / "evaluations" / "1", record(kid=0.0001))
    assert ddim.report(runs).verdict.endswith("; with one seed of it, this may be chance")


def read_page(found):
    """Return the texts of the page, and its pictures (H, W, 3), keyed by name."""
    page = Reader(found.folder.read_text())
    assert page.open == []
    shown = [attrs for tag, attrs in page.elements if tag == "img"]
    content = [base64.b64decode(attrs["src"].partition("base64,")[2]) for attrs in shown]
    pictures = [np.asarray(Image.open(io.BytesIO(each))) for each in content]
    return page.texts, [(attrs["alt"], each) for attrs, each in zip(shown, pictures, strict=True)]


def test_a_page_shows_samples_below_real_images_of_each_run(runs):
    for name, seed in (("a0", 1), ("a1", 2), ("b<0>", 1)):
        save_png(runs / name / "samples" / "real.png", make_sheet(images(4, 32, 32, seed)))
    texts, pictures = read_page(ddim.report(runs))
    strips = ["real images", "a0", "b<0>", "real images", "a1"]
    assert [name for name, _ in pictures] == ["losses", *strips]
    assert "b<0>" in texts
    for k, image in enumerate(to_uint8(images(4, 32, 32, seed=60))):
        left = 3 * k * (32 + GAP)
        np.testing.assert_array_equal(pictures[2][1][::3, left : left + 96 : 3], image)


def test_a_page_shows_tests_for_copies_and_likelihoods(runs):
    verdict = "By pixels, this run repeats training images."
    for number in (9, 10):
        home = runs / "a0" / "memorisation" / str(number)
        write_record(home, {"copies": {"value": 0.03}, "verdict": verdict * (number - 9)})
        save_png(home / "pairs.png", make_sheet(images(1, 8, 8)))
    facts = {"method": "vlb", "steps": 1000, "reference": {"images": list(range(8))}}
    write_record(
        runs / "a1" / "likelihoods" / "1",
        {"bits": {"value": 3.25, "error": 0.0625, "each": [3.0] * 9}} | facts,
    )
    texts, pictures = read_page(ddim.report(runs))
    assert {"3.0 %", verdict, "3.250 ± 0.144 (vlb)"} <= set(texts)
    assert pictures[-1][0] == "a0: samples and their nearest training images"


def test_a_report_replaces_an_earlier_one_and_no_other_file(tmp_path):
    for place in ("one", "two"):
        make(tmp_path / place / "1-l1", seen=(), optim__lr=len(place) + (place == "two"))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text("{")
    out = tmp_path / "page.html"
    # Runs of equal names are told apart by their folders.
    found = ddim.report(tmp_path / "one", tmp_path, out=out)
    assert [row.name for row in found.rows] == ["one/1-l1", "two/1-l1"]
    before = out.read_bytes()
    assert ddim.report(tmp_path / "one", tmp_path, out=out).folder.read_bytes() == before
    out.write_text("mine")
    with pytest.raises(UserError, match="was not made by ddim"):
        ddim.report(tmp_path, out=out)
    assert out.read_text() == "mine"
