"""A table of evaluations over choices of sampling, such as table 1 of Song et al. 2021, and its figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.evaluation.choices import Choice, name_choices
from ddim.evaluation.compare import Difference, measure_difference, remark_on_nfe
from ddim.evaluation.conditions import why_not_comparable
from ddim.evaluation.record import Evaluation
from ddim.metrics.catalogue import METRICS, find_metric
from ddim.metrics.statistics import Estimate
from ddim.plots.charts import COLOURS, FAINT, new_figure, style_panel
from ddim.plots.table import Table, Tabular, format_cell, format_interval, wrap_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
    def obstacle(self) -> str | None:
        """Why the values may not be compared with each other, or None."""
        first, *others = (cell.evaluation for cell in self.cells)
        return next((why for each in others if (why := why_not_comparable(first, each, self.metric))), None)

    @property
    def verdict(self) -> str:
        """The best cell, and how many others may be as good."""
        if self.obstacle:
            return f"these values should not be ranked: {self.obstacle}"
        best = self.find_best(self.cells)
        if best is None:
            return ""
        mine, low = self._estimate(best), find_metric(self.metric).lower_is_better
        others = [each for cell in self.cells if cell is not best and (each := self._estimate(cell))]
        known = [each for each in others if each.low is not None and mine and mine.low is not None]
        near = sum(each.low <= mine.high if low else each.high >= mine.low for each in known)  # type: ignore
        said = f"; {near} of the {len(others)} others may be as good" if known else ""
        place = best.row if len(self.columns) == 1 else f"{best.row}, {best.column}"
        return f"best: {place} ({find_metric(self.metric).title} {format_cell(mine and mine.value)}){said}"

    @property
    def title(self) -> str:
        """A description of the numbers in one sentence."""
        metric, first = find_metric(self.metric), self.cells[0].evaluation
        return (
            f"{metric.title} ({'lower' if metric.lower_is_better else 'higher'} is better) of "
            f"{first.generated.images:,} samples with equal seeds, against {first.reference.name}; "
            f"features {first.features.extractor}; {self.folder}"
        )

    @property
    def yardstick(self) -> Estimate | None:
        """The metric of real images in place of samples; None if it was not measured.

        Also None if the metric depends on the number of images, and there are fewer real images than samples.
        """
        first = self.cells[0].evaluation
        found = first.yardstick
        if not found or (find_metric(self.metric).biased and found.images < first.generated.images):
            return None
        return found.metrics.get(self.metric)

    @property
    def notes(self) -> list[str]:
        """Sentences about numbers that are easily misread."""
        notes = []
        for column in self.columns:
            mine = [cell for cell in self.cells if cell.column == column]
            said = remark_on_nfe([cell.evaluation for cell in mine])
            if said and len({cell.choice.get("steps") for cell in mine}) == 1:
                notes.append((f"at {column}, " if len(self.columns) > 1 else "") + said)
        chosen = {name for cell in self.cells for name in cell.choice}
        sampled = [sampling for cell in self.cells if (sampling := cell.evaluation.sampling)]
        grids = {sampling.grid["kind"] for sampling in sampled}
        if len(grids) > 1 and "listed" in grids and "grid" not in chosen:
            notes.append(
                "some combinations use times that `ddim search` found; name a grid to use one for all"
            )
        guided = {sampling.guidance_name for sampling in sampled}
        if guided != {""} and "guidance" not in chosen:
            which, names = "some" if len(guided) > 1 else "all", "; ".join(sorted(guided - {""}))
            found = f"combinations use guidance that `ddim search` found ({names})"
            notes.append(f"{which} {found}; guidance 1 turns it off")
        return notes

    @property
    def details(self) -> str:
        """The text with intervals, differences from the first row, and notes."""
        heads = ["", *self.columns]
        values = self._text_rows(self._format_value)
        differences = self._text_rows(lambda cell: format_difference(cell.difference))[1:]
        real = self.yardstick and format_interval(
            self.yardstick.value, self.yardstick.low, self.yardstick.high
        )
        parts = [wrap_text(self.verdict), wrap_text(self.title), "", "± is half of the 95 % interval"]
        parts.append(
            str(Table(heads, values, [f"real images in place of samples: {real}"] * bool(real), words=1))
        )
        if differences:
            said = f"minus {self.rows[0]}, paired by seed; in brackets if not distinguishable from 0 at 95 %"
            parts += ["", said, str(Table(heads, differences, words=1))]
        return "\n".join([*parts, "", *map(wrap_text, self.notes)]).rstrip()

    def find_cell(self, row: str, column: str) -> TableCell | None:
        """Return the cell of a row and a column, or None."""
        return next((cell for cell in self.cells if (cell.row, cell.column) == (row, column)), None)

    def find_best(self, cells: Sequence[TableCell]) -> TableCell | None:
        """Return the cell with the best value; None if fewer than two have one, or they cannot be ranked."""
        known = [(found.value, cell) for cell in cells if (found := self._estimate(cell))]
        best = min if find_metric(self.metric).lower_is_better else max
        return None if self.obstacle or len(known) < 2 else best(known, key=lambda pair: pair[0])[1]

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
        best = [self.find_best([c for c in self.cells if c.column == column]) for column in self.columns]
        rows = self._text_rows(lambda cell: "* " * (cell in best) + format_cell(self._value(cell)))
        return [dict(zip(["", *self.columns], row, strict=True)) for row in rows]

    def _text_rows(self, text: Callable[[TableCell], str]) -> list[list[str]]:
        cells = [[self.find_cell(row, column) for column in self.columns] for row in self.rows]
        rows = zip(self.rows, cells, strict=True)
        return [[row, *("" if cell is None else text(cell) for cell in mine)] for row, mine in rows]

    def _estimate(self, cell: TableCell) -> Estimate | None:
        return cell.evaluation.metrics.get(self.metric)

    def _value(self, cell: TableCell) -> float | None:
        return cell.evaluation.value(self.metric)

    def _format_value(self, cell: TableCell) -> str:
        found = self._estimate(cell)
        return "none" if found is None else format_interval(found.value, found.low, found.high)

    def _record(self, cell: TableCell) -> dict[str, Any]:
        difference, sampling = cell.difference, cell.evaluation.sampling
        found: dict[str, Any] = {"row": cell.row, "column": cell.column, **cell.choice}
        found |= {"guided": sampling.guidance_name, "nfe": sampling.nfe} if sampling else {}
        found["samples"] = cell.evaluation.generated.images
        for name in METRICS:
            found[name] = cell.evaluation.value(name)
            if interval := cell.evaluation.interval(name):
                found |= {f"{name}_low": interval[0], f"{name}_high": interval[1]}
        if isinstance(difference, Difference):
            name = f"{self.metric}_minus_first"
            found |= {name: difference.value, f"{name}_low": difference.low, f"{name}_high": difference.high}
            found["paired"] = difference.paired
        return found | {"evaluation": str(cell.evaluation.folder)}


def arrange_cells(
    combinations: Sequence[Choice], found: Sequence[Evaluation], metric: str
) -> tuple[TableCell, ...]:
    """Return the cells of a table, row by row, with the differences from the first row of each column."""
    rows, steps = name_choices(combinations), [choice.get("steps") for choice in combinations]
    columns = [f"{count} steps" for count in steps] if len(set(steps)) > 1 else [""] * len(steps)
    if len(set(rows)) == 1:
        # Only the number of steps differs, so each number gets a row.
        rows, columns = columns, [""] * len(steps)
    if not any(columns):
        columns = [find_metric(metric).title] * len(columns)
    first: dict[str, Evaluation] = {}
    for column, each in zip(columns, found, strict=True):
        first.setdefault(column, each)
    cells = []
    for choice, row, column, each in zip(combinations, rows, columns, found, strict=True):
        base = first[column]
        difference = None if each is base else measure_difference(each, base, metric)
        cells.append(TableCell(choice, row, column, each, difference))
    order = {name: k for k, name in enumerate(dict.fromkeys(rows))}
    return tuple(sorted(cells, key=lambda cell: order[cell.row]))


def format_difference(difference: Difference | str | None) -> str:
    """Return a difference as text, in brackets if it is not distinguishable from 0 at 95 %.

    A reason why the difference is not known is returned unchanged, and None becomes "".
    """
    if not isinstance(difference, Difference):
        return difference or ""
    text = format_interval(difference.value, difference.low, difference.high, "+")
    return text if difference.distinguishable else f"({text})"


def plot_table(table: EvaluationTable) -> Figure:
    """Return a figure of a table with 95 % confidence intervals.

    A table with several columns becomes a line for each row, over the network evaluations per sample. A table
    with one column becomes a dot for each row.
    """
    lines, title = len(table.columns) > 1, find_metric(table.metric).title
    figure = new_figure(7.2, 4.2 if lines else 1.4 + 0.34 * len(table.rows))
    axes = figure.add_subplot()
    style_panel(axes, *(("network evaluations per sample", title) if lines else (title, "")))
    axes.grid(color="#e6e6e6", linewidth=0.7, axis="both" if lines else "x")
    for k, row in enumerate(table.rows):
        cells = [c for column in table.columns if (c := table.find_cell(row, column))]
        known = [(cell, found) for cell in cells if (found := cell.evaluation.metrics.get(table.metric))]
        values = [found.value for _, found in known]
        halves = [0.0 if found.low is None else (found.high - found.low) / 2 for _, found in known]
        style = {"marker": "o", "capsize": 2, "markersize": 4, "color": COLOURS[k * lines % len(COLOURS)]}
        if lines:
            # Lines are moved apart a little, so that intervals at equal x do not hide each other.
            x = [_nfe(cell) * 1.015 ** (k - (len(table.rows) - 1) / 2) for cell, _ in known]
            axes.errorbar(x, values, halves, label=row, linewidth=1.6, **style)
        else:
            axes.errorbar(values, [k] * len(values), xerr=halves, **style)
    _label_axes(axes, table, lines=lines)
    return figure


def _label_axes(axes: Axes, table: EvaluationTable, *, lines: bool) -> None:
    if lines:
        ticks = sorted({_nfe(cell) for cell in table.cells})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
    else:
        axes.set_yticks(range(len(table.rows)), table.rows, parse_math=False)
        axes.margins(y=0.3 / len(table.rows))
        axes.invert_yaxis()
    if table.yardstick:
        draw = axes.axhline if lines else axes.axvline
        draw(table.yardstick.value, color=FAINT, linestyle="--", linewidth=1, label="real images")
    if lines or table.yardstick:
        axes.legend(frameon=False, fontsize=9)


def _nfe(cell: TableCell) -> int:
    return cell.evaluation.sampling.nfe if cell.evaluation.sampling else 0
