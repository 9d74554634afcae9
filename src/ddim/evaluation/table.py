"""A table of evaluations over choices of sampling, such as table 1 of Song et al. 2021."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ddim.evaluation.choices import Choice
from ddim.evaluation.compare import Difference
from ddim.evaluation.record import Evaluation
from ddim.evaluation.record_entries import Measured
from ddim.metrics.catalogue import METRICS, find_metric
from ddim.plots.table import Table, Tabular

EXPLAINED = (
    "Differences from the first row with 95 % confidence intervals, paired by seed; differences in brackets "
    "are not distinguishable from 0 at 95 %."
)


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
    """One evaluation for each combination of choices, such as samplers and numbers of steps; see `tabulate`.

    Attributes:
        metric: the metric that is shown; the evaluations contain all metrics.
        cells: the cells, row by row.
        notes: sentences about numbers that are easily misread.
        ranked: whether the values may be compared with each other; if not, no value is marked as the best.
    """

    metric: str
    cells: tuple[TableCell, ...]
    notes: tuple[str, ...] = ()
    ranked: bool = True

    def __repr__(self) -> str:
        """Return one line: metric, size and number of samples."""
        size = f"{len(self.rows)} x {len(self.columns)}"
        images = self.cells[0].evaluation.generated.images
        return f"EvaluationTable({self.metric}, {size}, {images:,} samples each)"

    def __str__(self) -> str:
        """Return the title, the values of all rows and columns, and the notes."""
        return super().__repr__()

    def _shown_rows(self) -> list[dict[str, str]]:
        return [dict(zip(["", *self.columns], row, strict=True)) for row in self.value_rows()]

    @property
    def rows(self) -> list[str]:
        """The names of the rows, in order."""
        return list(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in order."""
        return list(dict.fromkeys(cell.column for cell in self.cells))

    @property
    def title(self) -> str:
        """A description of the numbers in one sentence."""
        metric, first = find_metric(self.metric), self.cells[0].evaluation
        return (
            f"{metric.title} ({'lower' if metric.lower_is_better else 'higher'} is better) of "
            f"{first.generated.images:,} samples with equal seeds, against {first.reference.name}; "
            f"features {first.features.extractor}"
        )

    @property
    def yardstick(self) -> Measured | None:
        """The metric of real images in place of samples; None if it was not measured.

        Also None if the metric depends on the number of images, and there are fewer real images than samples.
        """
        first = self.cells[0].evaluation
        found = first.yardstick
        if not found or (find_metric(self.metric).biased and found.images < first.generated.images):
            return None
        return found.metrics.get(self.metric)

    def find_cell(self, row: str, column: str) -> TableCell | None:
        """Return the cell of a row and a column, or None."""
        return next((cell for cell in self.cells if (cell.row, cell.column) == (row, column)), None)

    def is_best(self, cell: TableCell) -> bool:
        """Return whether a cell has the best value of its column.

        The result is False if the column has fewer than two values, or the values may not be compared.
        """
        values = [self._value(other) for other in self.cells if other.column == cell.column]
        known = [value for value in values if value is not None]
        best = min if find_metric(self.metric).lower_is_better else max
        return self.ranked and len(known) > 1 and self._value(cell) == best(known)

    def value_rows(self) -> list[list[str]]:
        """Return each row as text: its name, and its values with the half-widths of their 95 % intervals.

        The best value of a column has a star.
        """
        return self._text_rows(lambda cell: "* " * self.is_best(cell) + self.format_cell(cell))

    def difference_rows(self) -> list[list[str]]:
        """Return each row except the first as text: its name, and its differences from the first row.

        A difference that is not distinguishable from 0 at 95 % is in brackets.
        """
        return self._text_rows(lambda cell: format_difference(cell.difference))[1:]

    def format_cell(self, cell: TableCell) -> str:
        """Return the value of a cell as text, such as "0.0123 ± 0.0011"."""
        return format_measured(cell.evaluation.metrics.get(self.metric))

    def to_records(self) -> list[dict[str, Any]]:
        """Return a flat dictionary for each cell: choices, guidance, NFE, metrics, the difference."""
        return [self._record(cell) for cell in self.cells]

    def describe(self) -> dict[str, Any]:
        """Return the whole table as JSON: title, metric, cells, the yardstick and notes."""
        cells = self.to_records()
        facts = {"title": self.title, "metric": self.metric, "cells": cells, "notes": list(self.notes)}
        found = asdict(self.yardstick) if self.yardstick else {}
        return facts | {"yardstick": {k: v for k, v in found.items() if v is not None} or None}

    def to_csv(self) -> str:
        """Return the cells as CSV, one line for each; see `to_records`."""
        return Table.from_records(self.to_records()).to_csv()

    def _text_rows(self, text: Callable[[TableCell], str]) -> list[list[str]]:
        return [
            [row, *("" if cell is None else text(cell) for cell in self._cells_of(row))] for row in self.rows
        ]

    def _cells_of(self, row: str) -> Iterator[TableCell | None]:
        return (self.find_cell(row, column) for column in self.columns)

    def _value(self, cell: TableCell) -> float | None:
        return cell.evaluation.value(self.metric)

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


def format_measured(found: Measured | None) -> str:
    """Return a metric as text, such as "0.0123 ± 0.0011"; None becomes "none".

    The number after ± is the half-width of the 95 % confidence interval, if the metric has one.
    """
    if found is None:
        return "none"
    digits = _digits(found.value)
    low, high = found.interval or (0.0, 0.0)
    return f"{found.value:.{digits}f}" + (f" ± {(high - low) / 2:.{digits}f}" if found.interval else "")


def format_difference(difference: Difference | str | None) -> str:
    """Return a difference as text, in brackets if it is not distinguishable from 0 at 95 %.

    A reason why the difference is not known is returned unchanged, and None becomes "".
    """
    if not isinstance(difference, Difference):
        return difference or ""
    half, digits = (difference.high - difference.low) / 2, _digits(difference.value)
    text = f"{difference.value:+.{digits}f} ± {half:.{digits}f}"
    return text if difference.distinguishable else f"({text})"


def _digits(value: float) -> int:
    """Return the number of decimals: 4 below 10, and 2 for larger numbers, such as a FID of some hundred."""
    return 4 if abs(value) < 10 else 2
