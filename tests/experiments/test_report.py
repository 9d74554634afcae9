"""Reports on runs: their content, and the files that they may replace."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from ddim.cli import main
from ddim.errors import UserError
from ddim.evaluation.figures import plot_logs
from ddim.experiments.index import find_runs, read_run
from ddim.experiments.measurements import Measurements, read_measurements
from ddim.experiments.report import _loss_curves, _tails, build_report, mean_log, write_report
from ddim.experiments.run_pictures import growth, last_samples, real_images
from ddim.experiments.summary import group_runs
from ddim.plots.page import Picture, Strips, Text
from ddim.plots.pictures import GAP, make_sheet, save_png, split_sheet, to_uint8
from ddim.plots.table import Table
from evaluated_runs import record
from html_reader import Reader
from run_folders import make, write_evaluation

pytestmark = pytest.mark.usefixtures("blank_figures")


def images(n, height, width):
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, height, width), generator=draw, dtype=torch.uint8)


@pytest.fixture
def trained(tmp_path):
    """Two configurations, one with two repeats, one with an unfinished run; all have samples."""
    root = tmp_path / "runs"
    for seed, error in ((0, 0.25), (1, 0.35)):
        make(root / f"a{seed}", seed=seed, errors={"image_mae": error, "noise_mae": 0.5})
    make(root / "b<0>", seen=(480,), optim__lr=1e-4, errors={"image_mae": 0.2})
    for folder in root.iterdir():
        (folder / "samples").mkdir()
        for step in (30, 60):
            sheet = make_sheet(images(4, 32, 32) // (90 - step))
            save_png(folder / "samples" / f"step-{step:09d}.png", sheet)
    return root


def block(found, kind):
    blocks, _ = build_report(found)
    return next(each for each in blocks if isinstance(each, kind))


def write(folder, record):
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record))


def likelihood(value=3.25, method="vlb", images=8, steps=1000, step=60):
    """The record of a likelihood, by default of the last step of `make`."""
    reference = {"fingerprint": "f", "part": "valid", "images": list(range(images))}
    facts = {"variance": None, "weights": "ema", "step": step, "time": "2026-01-01"}
    return {"method": method, "bits": {"value": value, "error": 0.0625}, "steps": steps} | {
        "reference": reference,
        **facts,
    }


def measurements_table(found):
    (shown,) = [
        each for each in build_report(found)[0] if isinstance(each, Table) and "bits" in str(each.columns)
    ]
    return [row[2] for row in shown.rows], shown.notes


def table(found):
    """Return the rows of the first table, with a star before the best values, and its notes."""
    shown = block(found, Table)
    texts = [
        [f"* {text}" if (r, c) in shown.best else text for c, text in enumerate(row)]
        for r, row in enumerate(shown.rows)
    ]
    return [dict(zip(shown.columns, row, strict=True)) for row in texts], shown.notes


def test_the_table_has_a_row_for_each_configuration_and_columns_where_they_differ(trained):
    rows, notes = table(find_runs(trained))
    assert rows == [
        {
            "optim.lr": "0.002",
            "finished": "2 of 2",
            "Image MAE ↓": "0.3000 ± 0.0707",
            "Noise MAE ↓": "0.5000 ± 0.0000",
        },
        {"optim.lr": "0.0001", "finished": "0 of 1", "Image MAE ↓": "0.2000", "Noise MAE ↓": "–"},
    ]
    assert any("standard deviation over repeats" in note for note in notes)
    assert any("are the latest so far" in note for note in notes)
    assert sum("mean absolute errors" in note for note in notes) == 1
    said = [each.text for each in build_report(find_runs(trained))[0] if isinstance(each, Text)]
    steps = find_runs(trained)[0].recipe["steps"]
    assert any(f"Sampling steps: {steps}." in text for text in said)


def with_record(run, **what):
    (run / "evaluations" / "1").mkdir(parents=True)
    (run / "evaluations" / "1" / "record.json").write_text(json.dumps(record(**what)))


def test_the_best_of_comparable_numbers_is_marked(tmp_path):
    for k, kid in enumerate((0.3, 0.1, 0.2)):
        with_record(make(tmp_path / str(k), optim__lr=10.0**-k), kid=kid)
    with_record(make(tmp_path / "3", optim__lr=1e-3), kid=0.01, samples=50)
    rows, notes = table(find_runs(tmp_path))
    assert [row["KID ↓"] for row in rows] == [
        "0.3000 [0.2900, 0.3100]",
        "* 0.1000 [0.0900, 0.1100]",
        "0.2000 [0.1900, 0.2100]",
        "not comparable",
    ]
    assert "Not comparable: 0.001, evaluated with different number of samples (50)." in notes
    assert any("1,000 samples of each run with 700 images" in note for note in notes)


def test_a_note_says_how_the_evaluated_runs_were_sampled(tmp_path):
    for k in range(2):
        with_record(make(tmp_path / str(k), seed=k), guidance=2.0)
    _, notes = table(find_runs(tmp_path))
    assert "Sampling: ddim, 20 steps, 20 NFE, guidance 2." in notes
    with_record(make(tmp_path / "edm", optim__lr=0.1), sampler={"kind": "edm"}, nfe=39, guidance=2.0)
    _, notes = table(find_runs(tmp_path))
    both = "ddim, 20 steps, 20 NFE, guidance 2; edm, 20 steps, 39 NFE, guidance 2"
    assert f"The network evaluations per sample (NFE) differ: {both}." in notes
    assert not any(note.startswith("Sampling") for note in notes)


def test_metrics_with_too_few_images_are_not_ranked(tmp_path):
    """A FID needs as many images as there are dimensions, 1280; here the reference has 700."""
    for k in range(2):
        folder = make(tmp_path / str(k), optim__lr=10.0**-k)
        with_record(folder, kid=0.1 + k, fid=10.0 + k)
    rows, notes = table(find_runs(tmp_path))
    assert [row["KID ↓"].startswith("* ") for row in rows] == [True, False]
    assert [row["FID ↓"].startswith("* ") for row in rows] == [False, False]
    assert "Too few images to rank by FID, FID-infinity." in notes


@pytest.mark.parametrize("field, value", [("schedule", "linear")])
def test_errors_in_different_units_are_not_ranked(tmp_path, field, value):
    make(tmp_path / "a", errors={"image_mae": 0.1})
    make(tmp_path / "b", errors={"image_mae": 0.2}, **{field: value})
    rows, notes = table(find_runs(tmp_path))
    assert [row["Image MAE ↓"].startswith("* ") for row in rows] == [False, False]
    assert any(note.startswith("Schedules, pixels or validation images differ") for note in notes)


def test_runs_on_different_images_are_not_ranked(tmp_path):
    for k in range(2):
        with_record(make(tmp_path / str(k), optim__lr=10.0**-k), kid=0.1 * k)
        path = tmp_path / str(k) / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "data": {"fingerprint": str(k)}}))
    rows, notes = table(find_runs(tmp_path))
    assert not any(text.startswith("* ") for row in rows for text in row.values())
    assert any(note.startswith("Data differ") for note in notes)


@pytest.mark.parametrize("height, width, n", [(32, 32, 4), (24, 40, 7), (64, 64, 1), (8, 16, 16)])
def test_a_sheet_is_split_into_its_images(height, width, n):
    shown = images(n, height, width)
    cells = split_sheet(make_sheet(shown), height, width)
    # The last row of a sheet may have empty cells.
    for image, cell in zip(to_uint8(shown), cells, strict=False):
        np.testing.assert_array_equal(cell, image)
    assert len(cells) >= n


def test_a_strip_shows_the_last_samples(trained):
    run = read_run(trained / "a0")
    strip = last_samples(run)
    first = to_uint8(images(4, 32, 32) // 30)
    assert strip.shape == (96, 3 * (4 * 32 + 3 * GAP), 3)
    for k, image in enumerate(first):
        left = 3 * k * (32 + GAP)
        np.testing.assert_array_equal(strip[::3, left : left + 96 : 3], image)
    assert len(block(find_runs(trained), Strips).rows) == 3


def test_samples_stand_below_real_images(trained):
    assert real_images(read_run(trained / "a0")) is None
    sheet = make_sheet(images(4, 32, 32))
    save_png(trained / "a1" / "samples" / "real.png", sheet)
    np.testing.assert_array_equal(real_images(read_run(trained / "a1"))[::3, ::3][:, :66], sheet[:32])
    shown = block(find_runs(trained), Strips).rows
    assert [name for name, _ in shown] == ["real images", "a0", "a1", "b<0>"]


def test_growth_shows_the_first_sample_after_each_step(trained):
    strip, steps = growth(read_run(trained / "a0"))
    assert steps == [30, 60]
    for place, step in enumerate(steps):
        left = 3 * place * (32 + GAP)
        first = to_uint8(images(4, 32, 32) // (90 - step))[0]
        np.testing.assert_array_equal(strip[::3, left : left + 96 : 3], first)
    (trained / "a0" / "samples" / "step-000000030.png").write_text("torn")
    with pytest.warns(UserWarning, match="step-000000030.png is damaged"):
        assert growth(read_run(trained / "a0")) is None


def test_intervals_are_drawn_for_each_run_that_has_one(trained):
    for k, kid in enumerate((0.1, 0.2)):
        with_record(trained / f"a{k}", kid=kid)
    blocks, files = build_report(find_runs(trained))
    assert "intervals.png" in files
    assert any(isinstance(each, Picture) and each.file == "intervals.png" for each in blocks)


def test_other_measurements_of_a_run_are_shown_and_damaged_ones_are_named(trained):
    assert read_measurements(trained / "a0") == Measurements()
    home = trained / "a0"
    share = {"value": 0.03, "low": 0.01, "high": 0.06}
    verdict = "By pixels, this run repeats training images."
    for number, text, scale in ((9, "old", 1.0), (10, verdict, 2.5)):
        record = {"copies": share, "verdict": text, "sampling": {"guidance": scale}}
        write(home / "memorisation" / str(number), record)
        save_png(home / "memorisation" / str(number) / "pairs.png", make_sheet(images(1, 8, 8)))
    write(home / "likelihoods" / "1", likelihood())
    write(trained / "a1" / "likelihoods" / "1", {"bits": [1]})
    found = read_measurements(home)
    assert (found.copies, [bits.text for bits in found.bits]) == ("3.0 % [1.0, 6.0]", ["3.250 ± 0.062"])
    assert found.pairs == home / "memorisation" / "10" / "pairs.png"
    blocks, files = build_report(find_runs(trained))
    (shown,) = [each for each in blocks if isinstance(each, Table) and "bits" in " ".join(each.columns)]
    assert shown.rows[0] == ["a0", "3.0 % [1.0, 6.0]", "3.250 ± 0.062 (vlb, 8 images, 1,000 steps)"]
    assert shown.notes[1:] == [
        f"a0: {verdict} Samples: guidance 2.5.",
        "a1: likelihoods/1/record.json cannot be read.",
    ]
    assert files["pairs-001.png"] == found.pairs.read_bytes()


def test_likelihoods_of_different_methods_are_marked_as_not_comparable(tmp_path):
    for k, method in enumerate(("vlb", "ode", "vlb")):
        write(make(tmp_path / str(k), seed=k) / "likelihoods" / "1", likelihood(3 + k, method, 4 + k % 2))
    # The newest comparable likelihood counts, and not a newer one with another number of steps.
    write(tmp_path / "0" / "likelihoods" / "2", likelihood(9, steps=10))
    cells, notes = measurements_table(find_runs(tmp_path))
    assert cells == [
        "3.000 ± 0.062 (vlb, 4 images, 1,000 steps)",
        "4.000 ± 0.062 (ode, 5 images, 1,000 steps)*",
        "5.000 ± 0.062 (vlb, 4 images, 1,000 steps)",
    ]
    assert [note for note in notes if note.startswith("*")] == [
        "* 1: this likelihood is not comparable with the others: most runs were measured with vlb, 4 images, "
        "1,000 steps."
    ]


def test_the_mean_of_logs_has_the_lines_that_all_of_them_have():
    one = [{"images": 16, "loss": 1.0}, {"images": 32, "loss": 3.0}, {"images": 32, "image_mae": 0.5}]
    two = [{"images": 16, "loss": 2.0}, {"images": 32, "loss": 5.0}, {"images": 48, "loss": 7.0}]
    assert mean_log([one, two]) == [{"images": 16, "loss": 1.5}, {"images": 32, "loss": 4.0}]
    assert mean_log([one])[1] == {"images": 32, "loss": 3.0, "image_mae": 0.5}


def test_an_extended_run_is_no_repeat_of_a_shorter_run(tmp_path):
    for k in range(3):
        make(tmp_path / str(k), images=400, seed=k, errors={"image_mae": 0.1 * (k + 1)})
    facts = json.loads((tmp_path / "2" / "run.json").read_text())
    (tmp_path / "2" / "run.json").write_text(json.dumps({**facts, "extended": 3696}))
    rows, _ = table(find_runs(tmp_path))
    assert [(row["images"], row["finished"]) for row in rows] == [("400", "2 of 2"), ("3696", "0 of 1")]
    assert [row["Image MAE ↓"] for row in rows] == ["0.1500 ± 0.0707", "0.3000"]


def test_a_run_that_goes_further_than_its_repeats_has_a_line_of_its_own(tmp_path):
    make(tmp_path / "a", seed=0, seen=(160, 320), images=960)
    make(tmp_path / "b", seed=1, seen=(160, 320, 480), images=960)
    (row,) = group_runs(find_runs(tmp_path))
    mean = _loss_curves([row])[row.name]
    assert mean[-1]["images"] == 320
    (tail,) = _tails(row, mean)
    assert {line["images"] for line in tail} == {320, 480}
    axes = plot_logs({"smoke": mean}, {"smoke": [tail]}).axes[0]
    assert [set(line.get_xdata()) for line in axes.get_lines()] == [{160, 320}, {320, 480}]


def test_only_the_best_of_many_configurations_have_curves(tmp_path):
    for k in range(12):
        make(tmp_path / f"{k:02}", optim__lr=2.0**-k, errors={"image_mae": 1 / (k + 1)})
    curves = _loss_curves(group_runs(find_runs(tmp_path)))
    assert list(curves) == [str(2.0**-k) for k in range(4, 12)]
    said = "The 8 of 12 configurations with the lowest image MAE are shown."
    assert said in block(find_runs(tmp_path), Picture).caption


def test_a_report_is_one_file_with_its_pictures(trained, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "comparison.html"
    assert main(["report", str(trained), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    page = Reader(out.read_text())
    assert "b<0>" in page.texts
    assert page.open == []
    pictures = [attrs["src"].partition("base64,")[2] for tag, attrs in page.elements if tag == "img"]
    assert len(pictures) == 7
    for content in pictures:
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            assert picture.format == "PNG"
    # A report replaces an earlier one, with the same bytes.
    before = out.read_bytes()
    assert main(["report", str(trained), "--out", str(out)]) == 0
    assert out.read_bytes() == before


def test_files_of_other_programs_are_not_overwritten(trained, tmp_path):
    (tmp_path / "page.html").write_text("mine")
    with pytest.raises(UserError, match="was not made by ddim"):
        write_report(find_runs(trained), tmp_path / "page.html", "t")
    assert (tmp_path / "page.html").read_text() == "mine"


def test_a_report_on_runs_without_numbers_can_be_written(tmp_path):
    make(tmp_path / "new", seen=())
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text("{")
    write_evaluation(tmp_path / "torn", 1, kid=0.1)
    write_report(find_runs(tmp_path), tmp_path / "report.html", "t")
    assert "1 stopped, 1 damaged" in (tmp_path / "report.html").read_text()


def test_a_damaged_run_leaves_the_rest_of_a_report_as_it_was(trained):
    whole = build_report(find_runs(trained))[0]
    (trained / "a1" / "metrics.jsonl").write_text("garbage\n{}\n")
    found = find_runs(trained)
    assert [run.state for run in found] == ["finished", "damaged", "stopped"]
    blocks, pictures = build_report(found)
    strips = ["001.png", "003.png", "growth-001.png", "growth-003.png"]
    assert list(pictures) == ["losses.png", *strips]
    assert blocks[-1].rows[1][:2] == ["a1", "damaged"]
    assert blocks[-1].notes[0].startswith("a1: ")
    # The other rows are as before.
    assert [blocks[-1].rows[k] for k in (0, 2)] == [whole[-1].rows[k] for k in (0, 2)]


@pytest.mark.parametrize("part", ["half"])
@pytest.mark.filterwarnings("ignore:.*is damaged")
def test_a_run_with_an_unreadable_sheet_has_no_strip(trained, part):
    path = trained / "a1" / "samples" / "step-000000060.png"
    png = path.read_bytes()
    path.write_bytes({"half": png[: len(png) // 2], "nothing": b"", "no image": b"no image"}[part])
    assert [name for name, _ in block(find_runs(trained), Strips).rows] == ["a0", "b<0>"]


def test_an_evaluation_of_an_earlier_step_is_shown_with_a_mark(tmp_path):
    with_record(make(tmp_path / "a", optim__lr=0.1), kid=0.3)
    with_record(make(tmp_path / "b", optim__lr=0.01), kid=0.1, step=30)
    rows, notes = table(find_runs(tmp_path))
    assert [row["KID ↓"] for row in rows] == ["0.3000 [0.2900, 0.3100]", "0.1000*"]
    assert any(note.startswith("* b: not comparable") and "earlier step (30)" in note for note in notes)
    # The column is there even if all runs were evaluated at earlier steps.
    rows, _ = table(find_runs(tmp_path / "b"))
    assert rows[0]["KID ↓"] == "0.1000*"
