"""Tables of evaluations over choices of sampling."""

import csv
import io

import numpy as np
import pytest

import ddim
from ddim.evaluation.compare import Difference, measure_difference
from ddim.evaluation.table import EvaluationTable, TableCell, plot_table
from ddim.sampling.pipeline import load
from ddim.sampling.sampling_setup import Guidance, save_guidance
from mine import Cubes, Euler
from stubs import SAMPLING, evaluation, stub

FEW = {"n": 40}
SAMPLERS = [ddim.DDIM(), ddim.DDIM(1.0), ddim.DDPM("large")]


def test_every_combination_is_an_evaluation_with_its_paired_difference_from_the_first_row(run):
    table = ddim.evaluate(run, **FEW, steps=[1, 3], sampler=SAMPLERS, features=stub())
    assert (table.rows, table.columns) == (
        ["ddim eta 0", "ddim eta 1", "ddpm"],
        ["1 steps", "3 steps"],
    )
    assert table.folder == run / "tables" / "1"
    assert {path.name for path in table.folder.iterdir()} == {"table.csv", "table.png"}
    cell = table.find_cell("ddim eta 1", "3 steps")
    alone = ddim.evaluate(run, n=40, steps=3, fields={"sampler": "ddim", "sampler.eta": "1"}, features=stub())
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
    first = ddim.evaluate(run, **FEW, steps=[2, 3], features=stub())
    seen, said = [], []
    more = ddim.evaluate(
        run, **FEW, steps=[2, 3, 4], features=stub(seen), progress=lambda *each: said.append(each)
    )
    assert sum(seen) == 40
    assert [cell.evaluation.folder.name for cell in more.cells] == ["1", "2", "3"]
    assert [c.evaluation.record for c in more.cells[:2]] == [c.evaluation.record for c in first.cells]
    assert said[-1] == ("samples", 120, 120)
    assert (more.rows, more.columns) == (["2 steps", "3 steps", "4 steps"], ["KID"])
    # Features that do not belong to their record are not used.
    np.save(run / "evaluations" / "2" / "features.npy", np.zeros((40, 12), np.float32))
    again = ddim.evaluate(run, **FEW, steps=[2, 3, 4], features=stub())
    assert [cell.evaluation.folder.name for cell in again.cells] == ["1", "4", "3"]


def test_unequal_evaluations_of_the_network_are_remarked_upon(run):
    table = ddim.evaluate(run, n=20, steps=3, sampler="ddim,edm", features=stub())
    assert (table.rows, table.columns) == (["ddim", "edm"], ["KID"])
    assert any("(NFE) differ: ddim, 3 steps, 3 NFE; edm, 3 steps, 5 NFE" in note for note in table.notes)
    other = EvaluationTable("precision", table.cells)
    assert other.verdict.startswith("these values should not be ranked: 20 images are too few")
    assert "* " not in repr(other)


def test_a_table_says_which_samples_are_guided_by_saved_guidance(run):
    loaded = load(run)
    save_guidance(run, loaded.recipe.sampler, 3, "ema", Guidance(2.0, None, "@raw"), labelled=False)
    table = ddim.evaluate(run, **FEW, steps=[2, 3], features=stub())
    assert [record["guided"] for record in table.to_records()] == ["", "guidance 2, guide @raw"]
    said = "note: these use times or guidance that `ddim search` found: dpm_solver, 3 steps, 6 NFE"
    assert any(note.startswith(said) for note in table.notes)


def test_parts_of_the_users_own_can_be_choices(run):
    table = ddim.evaluate(run, **FEW, sampler=[ddim.DDIM(), Euler()], steps=2, features=stub())
    assert table.rows == ["ddim", "Euler"]
    ours, theirs = (cell.evaluation for cell in table.cells)
    assert theirs.value("kid") == pytest.approx(ours.value("kid"), abs=1e-6)
    grids = ddim.evaluate(run, **FEW, grid=["uniform", Cubes()], steps=[3], features=stub())
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
    return EvaluationTable("kid", tuple(cells))


SONG = made(
    {
        "eta_0 <&>": [(0.03, None), (0.02, None)],
        "eta 1": [(0.05, Difference(0.02, 0.01, 0.03, True)), (0.015, Difference(-0.005, -0.01, 0.0, True))],
    }
)


def test_a_printed_table_has_its_verdict_first_and_stars():
    verdict, *title, head, first, last = str(SONG).splitlines()
    assert verdict == "best: eta 1, 20 steps (KID 0.015); 2 of 3 others may be as good"
    assert " ".join(title) == SONG.title
    assert head.split() == ["10", "steps", "20", "steps"]
    assert first.split() == ["eta_0", "<&>", "*", "0.03", "0.02"]
    assert last.split() == ["eta", "1", "0.05", "*", "0.015"]


def test_csv_has_one_line_for_each_cell():
    rows = list(csv.DictReader(io.StringIO(SONG.to_csv())))
    assert [row["kid"] for row in rows] == ["0.03", "0.02", "0.05", "0.015"]
    names = ("row", "steps", "nfe", "fid_infinity_low", "kid_minus_first", "kid_minus_first_high", "paired")
    assert [rows[2][name] for name in names] == ["eta 1", "10", "10", "20.0", "0.02", "0.03", "True"]


def test_a_figure_has_the_value_of_each_cell():
    (axes,) = plot_table(SONG).axes
    values = {round(float(value), 6) for line in axes.lines for value in line.get_ydata()}
    assert {0.03, 0.02, 0.05, 0.015, 0.001} <= values
