"""The files of a table of evaluations: CSV, and a figure with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ddim.evaluation.table import EvaluationTable, TableCell
from ddim.files import make_folder, write_atomic
from ddim.metrics.catalogue import find_metric
from ddim.plots.charts import COLOURS, FAINT, new_figure, save_figure, style_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def save_table(table: EvaluationTable, folder: str | Path) -> Path:
    """Write table.csv and table.png into a folder, and return the folder."""
    folder = Path(folder)
    make_folder(folder)
    write_atomic(folder / "table.csv", table.to_csv().encode())
    save_figure(folder / "table.png", plot_table(table))
    return folder


def plot_table(table: EvaluationTable) -> Figure:
    """Return a figure of a table with 95 % confidence intervals.

    A table with several columns becomes a line for each row, over the network evaluations per sample. A table
    with one column becomes a dot for each row.
    """
    figure = new_figure(7.2, 4.2 if len(table.columns) > 1 else 1.4 + 0.34 * len(table.rows))
    axes = figure.add_subplot()
    title = find_metric(table.metric).title
    if len(table.columns) > 1:
        _draw_lines(axes, table)
        style_panel(axes, "network evaluations per sample", title)
        axes.grid(color="#e6e6e6", linewidth=0.7)
    else:
        _draw_dots(axes, table)
        style_panel(axes, title, "")
        axes.grid(color="#e6e6e6", linewidth=0.7, axis="x")
    return figure


def _draw_lines(axes: Axes, table: EvaluationTable) -> None:
    axes.set_xscale("log")
    ticks = sorted({_nfe(cell) for cell in table.cells})
    for k, (row, cells) in enumerate(zip(table.rows, _grid(table), strict=True)):
        known = [cell for cell in cells if cell and cell.evaluation.value(table.metric) is not None]
        # Lines are moved apart a little, so that intervals at equal x do not hide each other.
        x = [_nfe(cell) * 1.015 ** (k - (len(table.rows) - 1) / 2) for cell in known]
        y = [cell.evaluation.value(table.metric) or 0.0 for cell in known]
        style = {"color": COLOURS[k % len(COLOURS)], "linewidth": 1.6, "capsize": 2, "markersize": 4}
        axes.errorbar(x, y, [_half(cell, table.metric) for cell in known], marker="o", label=row, **style)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    if table.yardstick:
        axes.axhline(table.yardstick.value, color=FAINT, linestyle="--", linewidth=1, label="real images")
    axes.legend(frameon=False, fontsize=9)


def _draw_dots(axes: Axes, table: EvaluationTable) -> None:
    for k, (cells,) in enumerate(_grid(table)):
        if cells and (value := cells.evaluation.value(table.metric)) is not None:
            half = _half(cells, table.metric)
            axes.errorbar([value], [k], xerr=[half], marker="o", color=COLOURS[0], capsize=2, markersize=4)
    axes.set_yticks(range(len(table.rows)), table.rows, parse_math=False)
    axes.margins(y=0.3 / len(table.rows))
    axes.invert_yaxis()
    if table.yardstick:
        axes.axvline(table.yardstick.value, color=FAINT, linestyle="--", linewidth=1, label="real images")
        axes.legend(frameon=False, fontsize=9)


def _grid(table: EvaluationTable) -> list[list[TableCell | None]]:
    return [[table.find_cell(row, column) for column in table.columns] for row in table.rows]


def _nfe(cell: TableCell) -> int:
    return cell.evaluation.sampling.nfe if cell.evaluation.sampling else 0


def _half(cell: TableCell, metric: str) -> float:
    """Return the half-width of the 95 % confidence interval of a cell; 0 for a metric without intervals."""
    low, high = cell.evaluation.interval(metric) or (0.0, 0.0)
    return (high - low) / 2
