"""A table of evaluations over choices of sampling, such as table 1 of Song et al. 2021, and its figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.evaluation.choices import Choice, name_choices
from ddim.evaluation.compare import Difference, measure_difference, remark_on_nfe
from ddim.evaluation.conditions import why_not_comparable
from ddim.evaluation.record import Evaluation
from ddim.metrics.catalogue import METRICS
from ddim.metrics.estimate import Estimate
from ddim.plots.charts import COLOURS, FAINT, new_figure, style_panel
from ddim.plots.table import Table, Tabular, format_cell, format_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TableCell:
    """One combination of choices and its evaluation.

    Attributes:
        choice: the values of the choices, keyed by name.
        row: the name of the row, made of the choices that differ between rows.
        column: the name of the column, such as "10 steps"; the metric's title if the table has one column.
        evaluation: the evaluation.
        difference: the difference from the first row of the same column, or the reason why it is not known;
            None in the first row.
    """

    choice: Choice
    row: str
    column: str
    evaluation: Evaluation
    difference: Difference | str | None = None


@dataclass(frozen=True, repr=False)
class EvaluationTable(Tabular):
    """One evaluation for each combination of choices, such as samplers and numbers of steps.

    Attributes:
        metric: the metric that is shown; the evaluations contain all metrics.
        cells: the cells, row by row.
        folder: the folder with table.csv and table.png.
    """

    metric: str
    cells: tuple[TableCell, ...]
    folder: Path | None = None

    @property
    def rows(self) -> list[str]:
        """The names of the rows, in order."""
        return list(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in order."""
        return list(dict.fromkeys(cell.column for cell in self.cells))

    @property
    def verdict(self) -> str:
        """The best cell, and how many others may be as good."""
        first, *others = self.cells
        for other in others:
            if why := why_not_comparable(first.evaluation, other.evaluation, self.metric):
                return f"these values should not be ranked: {why}"
        best = self.find_best(self.cells)
        mine, others = self.estimate(best), [cell for cell in self.cells if cell is not best]
        place = best.row if len(self.columns) == 1 else f"{best.row}, {best.column}"
        said = f"best: {place} ({METRICS[self.metric].title} {format_cell(mine.value)})"
        if mine.low is None:
            return said
        ends = [(each.low, each.high) for each in map(self.estimate, others)]
        near = sum(low <= mine.high and high >= mine.low for low, high in ends)
        return f"{said}; {near or 'none'} of {len(others)} others may be as good"

    @property
    def title(self) -> str:
        """A description of the numbers in one sentence."""
        metric, first = METRICS[self.metric], self.cells[0].evaluation
        better = "lower" if metric.lower_is_better else "higher"
        return f"{metric.title} ({better} is better) with equal seeds: {first.conditions}; {self.folder}"

    @property
    def yardstick(self) -> Estimate | None:
        """The metric of real images in place of samples; None if it was not measured.

        Also None if the metric depends on the number of images, and there are fewer real images than samples.
        """
        first = self.cells[0].evaluation
        found = first.yardstick
        fair = found and (found.images >= first.count or not METRICS[self.metric].biased)
        return found.metrics.get(self.metric) if found and fair else None

    @property
    def notes(self) -> list[str]:
        """The values and differences with their intervals, and what is easily misread."""
        notes = []
        for cell in self.cells:
            found, minus = self.estimate(cell), ""
            if cell.difference is not None:
                minus = f"; minus {self.rows[0]}: {cell.difference}"
            value = format_interval(found.value, found.low, found.high)
            notes.append(f"{cell.row}, {cell.column}: {value}{minus}")
        if real := self.yardstick:
            value = format_interval(real.value, real.low, real.high)
            notes.append(f"real images in place of samples: {value}")
        for column in self.columns:
            mine = [cell for cell in self.cells if cell.column == column]
            said = remark_on_nfe([cell.evaluation for cell in mine])
            if said and len({cell.choice.get("steps") for cell in mine}) == 1:
                notes.append(f"note: {said}")
        searched = [cell for cell in self.cells if _is_searched(cell)]
        if searched:
            which = "; ".join(dict.fromkeys(cell.evaluation.name for cell in searched))
            notes.append(f"note: these use times or guidance that `ddim search` found: {which}")
        return notes

    def estimate(self, cell: TableCell) -> Estimate:
        """Return the metric of a cell."""
        return cell.evaluation.metrics.get(self.metric, Estimate(None, None, None))

    def find_cell(self, row: str, column: str) -> TableCell | None:
        """Return the cell of a row and a column, or None."""
        return next((cell for cell in self.cells if (cell.row, cell.column) == (row, column)), None)

    def find_best(self, cells: Sequence[TableCell]) -> TableCell:
        """Return the cell with the best value."""
        best = min if METRICS[self.metric].lower_is_better else max
        return best(cells, key=lambda cell: self.estimate(cell).value)

    def to_records(self) -> list[dict[str, Any]]:
        """Return a flat dictionary for each cell: choices, guidance, NFE, metrics, the difference."""
        return [self._record(cell) for cell in self.cells]

    def to_json(self) -> dict[str, Any]:
        """Return the whole table as plain values: folder, title, metric, cells, the yardstick and notes."""
        facts = {"folder": self.folder, "verdict": self.verdict, "title": self.title, "metric": self.metric}
        real = self.yardstick and self.yardstick.to_json()
        return {**facts, "cells": self.to_records(), "notes": self.notes, "yardstick": real}

    def to_csv(self) -> str:
        """Return the cells as CSV, one line for each; see `to_records`."""
        return Table.from_records(self.to_records()).to_csv()

    def _shown_rows(self) -> list[dict[str, str]]:
        """Return each row as text: its name and its values; the best value of a column has a star."""
        ranked = self.verdict.startswith("best") and len(self.rows) > 1
        groups = [[cell for cell in self.cells if cell.column == name] for name in self.columns]
        best = [self.find_best(group) for group in groups] if ranked else []
        shown = []
        for row in self.rows:
            shown.append({"": row})
            for column in self.columns:
                if cell := self.find_cell(row, column):
                    star = "* " * (cell in best)
                    shown[-1][column] = star + format_cell(self.estimate(cell).value)
        return shown

    def _record(self, cell: TableCell) -> dict[str, Any]:
        difference, sampling = cell.difference, cell.evaluation.sampling
        found: dict[str, Any] = {"row": cell.row, "column": cell.column, **cell.choice}
        found |= {"guided": sampling.guidance_name, "nfe": sampling.nfe} if sampling else {}
        found["samples"] = cell.evaluation.count
        columns = {name: cell.evaluation.metrics.get(name) for name in METRICS}
        if isinstance(difference, Difference):
            columns[f"{self.metric}_minus_first"] = difference
            found["paired"] = difference.paired
        for name, value in columns.items():
            found[name] = value and value.value
            if value and value.low is not None:
                found |= {f"{name}_low": value.low, f"{name}_high": value.high}
        return found | {"evaluation": str(cell.evaluation.folder)}


def _is_searched(cell: TableCell) -> bool:
    """Return whether a cell uses times or guidance that no choice names."""
    if (sampling := cell.evaluation.sampling) is None:
        return False
    grid = sampling.grid["kind"] == "listed" and "grid" not in cell.choice
    return grid or bool(sampling.guidance_name and "guidance" not in cell.choice)


def arrange_cells(
    combinations: Sequence[Choice], found: Sequence[Evaluation], metric: str
) -> tuple[TableCell, ...]:
    """Return the cells of a table, row by row, with the differences from the first row of each column."""
    rows, steps = name_choices(combinations), [choice.get("steps") for choice in combinations]
    columns = [METRICS[metric].title] * len(steps)
    if len(set(steps)) > 1:
        columns = [f"{count} steps" for count in steps]
    if len(set(rows)) == 1:
        # Only the number of steps differs, so each number gets a row.
        rows, columns = columns, [METRICS[metric].title] * len(steps)
    first: dict[str, Evaluation] = {}
    cells = []
    for choice, row, column, each in zip(combinations, rows, columns, found, strict=True):
        base = first.setdefault(column, each)
        difference = None if each is base else measure_difference(each, base, metric)
        cells.append(TableCell(choice, row, column, each, difference))
    order = {name: k for k, name in enumerate(dict.fromkeys(rows))}
    return tuple(sorted(cells, key=lambda cell: order[cell.row]))


def plot_table(table: EvaluationTable) -> Figure:
    """Return a figure of a table: a line with 95 % intervals for each row, over the NFE of a sample."""
    figure = new_figure(7.2, 4.2)
    axes = figure.add_subplot()
    for k, row in enumerate(table.rows):
        cells = [cell for cell in table.cells if cell.row == row]
        found = [table.estimate(cell) for cell in cells]
        halves = [0.0 if each.low is None else (each.high - each.low) / 2 for each in found]
        # Lines are moved apart a little, so that intervals at equal x do not hide each other.
        x = [_count_evaluations(cell) * 1.015 ** (k - (len(table.rows) - 1) / 2) for cell in cells]
        style = {"marker": "o", "capsize": 2, "markersize": 4, "color": COLOURS[k % len(COLOURS)]}
        axes.errorbar(x, [each.value for each in found], halves, label=row, linewidth=1.6, **style)
    if table.yardstick:
        axes.axhline(table.yardstick.value, color=FAINT, linestyle="--", linewidth=1, label="real images")
    ticks = sorted({_count_evaluations(cell) for cell in table.cells})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    style_panel(axes, "network evaluations per sample", METRICS[table.metric].title)
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _count_evaluations(cell: TableCell) -> int:
    return cell.evaluation.sampling.nfe if cell.evaluation.sampling else 0
