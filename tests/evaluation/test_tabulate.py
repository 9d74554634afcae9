"""Tables of evaluations over choices of sampling."""

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ddim
from ddim.evaluation.compare import Difference, measure_difference
from ddim.evaluation.evaluate import evaluate_source
from ddim.evaluation.reference import Reference
from ddim.evaluation.samples import Samples
from ddim.evaluation.table import EvaluationTable, TableCell, format_difference
from ddim.evaluation.table_files import save_table
from ddim.evaluation.tabulate import tabulate
from ddim.runs.checkpoint import find_newest
from ddim.sampling.pipeline import load
from ddim.sampling.sampling_setup import Guidance, save_guidance
from mine import Cubes, Euler
from stubs import SAMPLING, evaluation, stub

FEW = Samples(n=40)
CHOICES = {"steps": [1, 3], "sampler": [ddim.DDIM(), ddim.DDIM(1.0), ddim.DDPM("large")]}


def test_every_combination_is_an_evaluation_with_its_paired_difference_from_the_first_row(run):
    table = tabulate(run, CHOICES, FEW, features=stub())
    assert (table.rows, table.columns) == (
        ["ddim eta 0", "ddim eta 1", "ddpm variance large"],
        ["1 steps", "3 steps"],
    )
    assert repr(table) == "EvaluationTable(kid, 3 x 2, 40 samples each)"
    cell = table.find_cell("ddim eta 1", "3 steps")
    alone = evaluate_source(
        run, Samples(n=40, steps=3, fields={"sampler": "ddim", "sampler.eta": "1"}), extractor=stub()
    )
    assert cell.evaluation.record["metrics"] == alone.record["metrics"]
    base = table.find_cell("ddim eta 0", "3 steps")
    assert cell.difference == measure_difference(cell.evaluation, base.evaluation, "kid")
    assert cell.difference.paired
    assert base.difference is None
    # With one step, the sample is that of the network, whatever the noise of further steps.
    one_step = [table.find_cell(row, "1 steps") for row in table.rows]
    assert len({cell.evaluation.value("kid") for cell in one_step}) == 1
    assert len(list((run / "evaluations").iterdir())) == 6 + 1


def test_a_table_makes_only_evaluations_that_are_missing(run):
    first = tabulate(run, {"steps": [2, 3]}, FEW, features=stub())
    seen, said = [], []
    more = tabulate(
        run, {"steps": [2, 3, 4]}, FEW, features=stub(seen), progress=lambda *each: said.append(each)
    )
    assert sum(seen) == 40
    assert [cell.evaluation.folder.name for cell in more.cells] == ["1", "2", "3"]
    assert [c.evaluation.record for c in more.cells[:2]] == [c.evaluation.record for c in first.cells]
    assert said[-1] == ("network evaluations", 40 * 9, 40 * 9)
    assert (more.rows, more.columns) == (["2 steps", "3 steps", "4 steps"], ["KID"])
    # Features that do not belong to their record are not used.
    np.save(run / "evaluations" / "2" / "features.npy", np.zeros((40, 12), np.float32))
    again = tabulate(run, {"steps": [2, 3, 4]}, FEW, features=stub())
    assert [cell.evaluation.folder.name for cell in again.cells] == ["1", "4", "3"]


def test_a_table_finds_its_evaluations_of_a_checkpoint_outside_a_run(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lone = Path(shutil.copytree(find_newest(run / "checkpoints"), tmp_path / "lone"))
    for steps, names in (([2], ["lone-1"]), ([2, 3], ["lone-1", "lone-2"])):
        table = tabulate(lone, {"steps": steps}, FEW, Reference("blossoms:60"), features=stub())
        assert [cell.evaluation.folder.name for cell in table.cells] == names


def test_unequal_evaluations_of_the_network_are_remarked_upon(run):
    table = tabulate(run, {"sampler": ["ddim", "edm"], "steps": 3}, Samples(n=20), features=stub())
    assert (table.rows, table.columns) == (["ddim", "edm"], ["KID"])
    assert any("(NFE) differ: ddim, 3 steps, 3 NFE; edm, 3 steps, 5 NFE" in note for note in table.notes)
    assert any("should not be ranked: 20 images are too few" in note for note in table.notes)
    assert not any(table.is_best(cell) for cell in table.cells)


def test_a_table_says_which_samples_are_guided_by_saved_guidance(run):
    loaded = load(run)
    save_guidance(run, loaded.recipe.sampler, 3, "ema", Guidance(2.0, None, "@raw"), labelled=False)
    table = tabulate(run, {"steps": [2, 3]}, FEW, features=stub())
    assert [record["guided"] for record in table.to_records()] == ["", "guidance 2, guide @raw"]
    said = "combinations use guidance that `ddim search` found (guidance 2, guide @raw); --guidance 1 turns"
    assert any(note.startswith(f"some {said}") for note in table.notes)


def test_parts_of_the_users_own_can_be_choices(run):
    table = tabulate(run, {"sampler": [ddim.DDIM(), Euler()], "steps": [2]}, FEW, features=stub())
    assert table.rows == ["ddim eta 0", "Euler"]
    ours, theirs = (cell.evaluation for cell in table.cells)
    assert theirs.value("kid") == pytest.approx(ours.value("kid"), abs=1e-6)
    grids = tabulate(run, {"grid": ["uniform", Cubes()], "steps": [3]}, FEW, features=stub())
    assert grids.rows == ["uniform", "Cubes"]


def made(values, columns=("10 steps", "20 steps")):
    """A table of invented evaluations; `values` are pairs (KID, difference) for each row and column."""
    cells = []
    for row, pairs in values.items():
        for column, (kid, difference) in zip(columns, pairs, strict=True):
            metric = {"value": kid, "low": kid - 0.01, "high": kid + 0.01}
            steps = int(column.split()[0])
            real = {"metrics": {"kid": {"value": 0.001, "low": 0.0, "high": 0.002}}}
            found = evaluation(
                metrics__kid=metric,
                sampling={**SAMPLING, "nfe": steps},
                yardstick={"images": 400, "part": "train", **real},
            )
            choice = {"steps": steps, "sampler.eta": row}
            cells.append(TableCell(choice, row, column, found, difference))
    return EvaluationTable("kid", tuple(cells), ("a <note>",))


SONG = made(
    {
        "eta_0 <&>": [(0.03, None), (0.02, None)],
        "eta 1": [(0.05, Difference(0.02, 0.01, 0.03, True)), (0.015, Difference(-0.005, -0.01, 0.0, True))],
    }
)


def test_a_printed_table_has_its_title_values_and_notes():
    title, head, first, last, note = str(SONG).splitlines()
    assert title == SONG.title
    assert head.split() == ["10", "steps", "20", "steps"]
    assert first.split() == ["eta_0", "<&>", "*", "0.0300", "±", "0.0100", "0.0200", "±", "0.0100"]
    assert last.split()[-4:] == ["*", "0.0150", "±", "0.0100"]
    assert note == "a <note>"


@pytest.mark.parametrize(("metric", "images", "known"), [("kid", 30, 1), ("fid", 30, 0), ("fid", 400, 1)])
def test_fewer_real_images_than_samples_are_shown_only_for_an_unbiased_metric(metric, images, known):
    metrics = {metric: {"value": 0.5, "low": 0.4, "high": 0.6}}
    yardstick = {"images": images, "part": "train", "metrics": metrics}
    found = evaluation(sampling={**SAMPLING, "nfe": 2}, yardstick=yardstick)
    table = EvaluationTable(metric, (TableCell({"steps": 2}, "eta 0", "2 steps", found),))
    assert (table.describe()["yardstick"] is not None) == known


def test_the_best_of_each_column_and_differences_that_are_not_distinguishable_are_marked():
    assert SONG.value_rows() == [
        ["eta_0 <&>", "* 0.0300 ± 0.0100", "0.0200 ± 0.0100"],
        ["eta 1", "0.0500 ± 0.0100", "* 0.0150 ± 0.0100"],
    ]
    assert SONG.difference_rows() == [["eta 1", "+0.0200 ± 0.0100", "(-0.0050 ± 0.0050)"]]
    assert format_difference("not known") == "not known"
    alone = EvaluationTable("kid", SONG.cells[:1])
    assert alone.value_rows() == [["eta_0 <&>", "0.0300 ± 0.0100"]]


def test_csv_has_one_line_for_each_cell():
    rows = list(csv.DictReader(io.StringIO(SONG.to_csv())))
    assert [(row["row"], row["steps"], row["kid"]) for row in rows] == [
        ("eta_0 <&>", "10", "0.03"),
        ("eta_0 <&>", "20", "0.02"),
        ("eta 1", "10", "0.05"),
        ("eta 1", "20", "0.015"),
    ]
    assert (rows[2]["kid_minus_first"], rows[2]["kid_minus_first_high"], rows[2]["paired"]) == (
        "0.02",
        "0.03",
        "True",
    )
    assert (rows[0]["fid_infinity_low"], rows[0]["nfe"]) == ("20.0", "10")


@pytest.mark.parametrize("columns", [2, 1])
def test_the_files_of_a_table_have_its_values_and_a_figure(tmp_path, columns):
    values = {
        "eta 0": [(0.03, None)] * columns,
        "eta 1": [(0.02, Difference(-0.01, -0.02, -0.005, True))] * columns,
    }
    table = made(values, ("10 steps", "20 steps")[:columns])
    folder = save_table(table, tmp_path / "new" / "table")
    assert {path.name for path in folder.iterdir()} == {"table.csv", "table.png"}
    with Image.open(folder / "table.png") as image:
        assert image.width > 900
