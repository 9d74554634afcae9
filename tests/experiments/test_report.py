"""Reports on runs: their table, their pictures, and the files that they may replace."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import ddim
from ddim.errors import UserError
from ddim.plots.pictures import GAP, make_sheet, save_png, split_sheet, to_uint8
from evaluated_runs import record
from html_reader import Reader
from run_folders import make

pytestmark = pytest.mark.usefixtures("blank_figures")


def images(n, height, width, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, height, width), generator=draw, dtype=torch.uint8)


@pytest.fixture
def runs(tmp_path):
    """Two configurations, one with two seeds, one with an unfinished run; all have samples."""
    root = tmp_path / "runs"
    for seed, error in ((0, 0.25), (1, 0.35)):
        make(root / f"a{seed}", seed=seed, errors={"image_mae": error, "noise_mae": 0.5})
        write(root / f"a{seed}" / "evaluations" / "1", record(kid=0.0001 * (seed + 1)))
    make(root / "b<0>", seen=(480,), optim__lr=1e-4, errors={"image_mae": 0.2})
    for k, folder in enumerate(sorted(root.iterdir())):
        (folder / "samples").mkdir()
        for step in (30, 60):
            sheet = make_sheet(images(4, 32, 32, seed=10 * k + step))
            save_png(folder / "samples" / f"step-{step:09d}.png", sheet)
    return root


def write(folder, document):
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(document))


def test_the_table_has_a_row_for_each_configuration(runs):
    report = ddim.report(runs)
    table = report._shown(())
    assert table.columns == ["run", "optim.lr", "image MAE ↓", "noise MAE ↓", "KID ↓", "finished"]
    assert table.rows == [
        ["a0 (2 seeds)", "0.002", "0.3000 ± 0.0707", "0.5000 ± 0.0000", "0.000150 ± 0.000071", "2 of 2"],
        ["b<0>", "0.0001", "0.2000", "–", "–", "0 of 1"],
    ]
    assert report.to_records()[0]["kid"] == pytest.approx(0.00015)
    assert report.verdict == "3 runs: 2 finished, 1 stopped; nothing to rank yet"
    write(make(runs / "c", optim__lr=1.0, errors={}) / "evaluations" / "1", record(kid=0.25))
    report = ddim.report(runs)
    best = "a0 (2 seeds), KID 0.000150 ± 0.000071"
    assert report.verdict == f"closest to real images: {best}; next: c, KID 0.2500 [0.2400, 0.2600]"
    assert report._shown(()).best == {(0, 4)}


def read_page(report):
    page = Reader(report.folder.read_text())
    assert page.open == []
    shown = [attrs for tag, attrs in page.elements if tag == "img"]
    content = [base64.b64decode(attrs["src"].partition("base64,")[2]) for attrs in shown]
    pictures = {
        attrs["alt"]: np.asarray(Image.open(io.BytesIO(each)))
        for attrs, each in zip(shown, content, strict=True)
    }
    return page.texts, [attrs["alt"] for attrs in shown], pictures


def test_a_page_shows_samples_below_real_images_of_each_run(runs):
    for name, seed in (("a0", 1), ("a1", 2), ("b<0>", 1)):
        save_png(runs / name / "samples" / "real.png", make_sheet(images(4, 32, 32, seed)))
    (runs / "b<0>" / "samples" / "step-000000030.png").write_text("torn")
    with pytest.warns(UserWarning, match="step-000000030.png is damaged"):
        texts, names, pictures = read_page(ddim.report(runs))
    assert names[:6] == ["losses", "real images", "a0", "b<0>", "real images", "a1"]
    assert names[6:] == ["a0: 480, 960 images", "a1: 480, 960 images"]
    assert "b<0>" in texts
    for k, image in enumerate(to_uint8(images(4, 32, 32, seed=60))):
        left = 3 * k * (32 + GAP)
        np.testing.assert_array_equal(pictures["a0"][::3, left : left + 96 : 3], image)
    for k, step in enumerate((30, 60)):
        left = 3 * k * (32 + GAP)
        first = to_uint8(images(4, 32, 32, seed=10 + step))[0]
        np.testing.assert_array_equal(pictures[names[7]][::3, left : left + 96 : 3], first)


def test_a_page_shows_tests_for_copies_and_likelihoods(runs):
    copies = {"value": 0.03, "low": 0.01, "high": 0.06}
    verdict = "By pixels, this run repeats training images."
    for number in (9, 10):
        home = runs / "a0" / "memorisation" / str(number)
        write(home, {"copies": copies, "verdict": verdict * (number - 9), "sampling": {"guidance": 1.0}})
        save_png(home / "pairs.png", make_sheet(images(1, 8, 8)))
    facts = {"method": "vlb", "steps": 1000, "reference": {"images": list(range(8))}}
    write(runs / "a1" / "likelihoods" / "1", {"bits": {"value": 3.25, "error": 0.0625}} | facts)
    texts, names, _ = read_page(ddim.report(runs))
    assert {"3.0 %", verdict, "3.250 ± 0.062 (vlb, 8 images)"} <= set(texts)
    assert names[-1] == "a0: samples and their nearest training images"


@pytest.mark.parametrize("height, width, n", [(32, 32, 4), (24, 40, 7), (64, 64, 1), (8, 16, 16)])
def test_a_sheet_is_split_into_its_images(height, width, n):
    shown = images(n, height, width)
    cells = split_sheet(make_sheet(shown), height, width)
    # The last row of a sheet may have empty cells.
    for image, cell in zip(to_uint8(shown), cells, strict=False):
        np.testing.assert_array_equal(cell, image)
    assert len(cells) >= n


def test_runs_of_equal_names_are_told_apart_by_their_folders(tmp_path):
    for place in ("one", "two"):
        make(tmp_path / place / "1-l1", optim__lr=len(place) + (place == "two"))
    report = ddim.report(tmp_path / "one", tmp_path / "two", tmp_path / "one", out=tmp_path / "page.html")
    assert [row.name for row in report.rows] == ["one/1-l1", "two/1-l1"]


def test_a_report_replaces_an_earlier_one_and_no_other_file(tmp_path):
    make(tmp_path / "new", seen=())
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text("{")
    report = ddim.report(tmp_path)
    before = report.folder.read_bytes()
    assert report.folder == tmp_path / "report.html"
    assert ddim.report(tmp_path).folder.read_bytes() == before
    (tmp_path / "page.html").write_text("mine")
    with pytest.raises(UserError, match="was not made by ddim"):
        ddim.report(tmp_path, out=tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there is no run"):
        ddim.report(tmp_path / "empty")
