"""Write a comparison of evaluations as tables, and as a page with their samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddim.evaluation.compare import Comparison, Difference, Row
from ddim.evaluation.record import FOLDER, GRID, Evaluation
from ddim.metrics.catalogue import find_metric
from ddim.plots import charts
from ddim.plots.page import Block, Cell, Folded, Heading, Picture, Strips, Table, Text, save_page
from ddim.plots.pictures import COLUMNS, make_strip, read_sheet, render_png
from ddim.runs.folder import REAL_IMAGES

Rows = list[list[str]]

HEAD = ["place", "evaluation", "sampled by", "samples", "value", "95 % interval", "minus the first"]
"""The names of the columns of `ranking_rows`."""

WIDEST = 32
"""Longer values are cut to this number of characters, if different values still differ after the cut."""


def ranking_rows(comparison: Comparison, names: Sequence[str]) -> Rows:
    """Return one row of text for each evaluation, under `HEAD`."""
    rows = []
    for place, (row, name) in enumerate(zip(comparison.rows, names, strict=True), 1):
        value = row.evaluation.value(comparison.metric)
        interval = row.evaluation.interval(comparison.metric)
        rows.append(
            [
                "-" if row.unranked else str(place),
                name,
                row.evaluation.name,
                f"{row.evaluation.generated.images:,}",
                "none" if value is None else f"{value:.5f}",
                "" if interval is None else f"{interval[0]:.5f} ... {interval[1]:.5f}",
                "the first" if row.evaluation is comparison.first else _describe(row),
            ]
        )
    return rows


def choice_rows(comparison: Comparison) -> Rows:
    """Return one row of text for each choice that differs: its name, and one value for each evaluation."""
    return [[name, *shorten_values(values)] for name, values in comparison.choices.items()]


def write_comparison(comparison: Comparison, out: Path) -> list[Path]:
    """Write a comparison as one HTML file and as Markdown with its images; return the files."""
    names = [shorten_folder(row.evaluation.folder) for row in comparison.rows]
    features = comparison.first.features
    how = (
        f"Features of {features.extractor} (weights {features.weights[:8]}, {features.resize}), "
        f"compared with {comparison.first.reference.name}. Differences have 95 % confidence intervals, which "
        "are conservative except for KID. If an interval contains 0, the two evaluations are not "
        "distinguishable at 95 %."
    )
    notes: dict[str, list[str]] = {}
    images: dict[str, bytes] = {}
    strips: list[tuple[str, str]] = []
    for number, (name, row) in enumerate(zip(names, comparison.rows, strict=True), 1):
        for note in row.evaluation.remarks:
            notes.setdefault(note, []).append(name)
        if (strip := _read_strip(row.evaluation, row.evaluation.folder, GRID)) is not None:
            images[f"{number:03}.png"] = render_png(strip)
            strips.append((name, f"{number:03}.png"))
    # The real images are in the run folder. For an evaluation elsewhere, `real` is None.
    real = _read_strip(comparison.first, comparison.first.folder.resolve().parent.parent, REAL_IMAGES)
    if strips and real is not None:
        images["real.png"] = render_png(real)
        strips.insert(0, ("real images", "real.png"))
    said = [f"{', '.join(of)}: {note}" for note, of in notes.items()]
    blocks: list[Block] = [Text(how), Table(HEAD, _cells(ranking_rows(comparison, names)), 3, said)]
    if panels := _intervals(comparison, names):
        images["intervals.png"] = render_png(charts.rasterise(charts.plot_intervals(panels)))
        blocks.append(
            Picture(
                "intervals.png",
                "Values, and differences from the first evaluation, with 95 % confidence intervals.",
            )
        )
    if choices := choice_rows(comparison):
        head = ["", *names]
        blocks.append(Folded("Settings that differ", [Table(head, _cells(choices), len(head))]))
    if strips:
        about = "The first samples of each evaluation. If the seeds are the same, each column has one seed."
        blocks += [Heading("Samples"), Text(about), Strips(strips)]
    return save_page(out, comparison.title, blocks, images)


def _intervals(comparison: Comparison, names: Sequence[str]) -> dict[str, dict[str, list[charts.Interval]]]:
    """Return the panels of a figure: the values, and the differences from the first evaluation."""
    values: dict[str, list[charts.Interval]] = {}
    differences: dict[str, list[charts.Interval]] = {}
    for name, row in zip(names, comparison.rows, strict=True):
        value, interval = row.evaluation.value(comparison.metric), row.evaluation.interval(comparison.metric)
        values[name], differences[name] = [], []
        if value is not None and interval is not None and row.unranked is None:
            values[name].append(charts.Interval(value, *interval))
        if isinstance(found := row.difference, Difference):
            differences[name].append(charts.Interval(found.value, found.low, found.high))
    panels = {find_metric(comparison.metric).title: values, "minus the first": differences}
    return {title: rows for title, rows in panels.items() if any(rows.values())}


def _read_strip(evaluation: Evaluation, folder: Path, sheet: str) -> np.ndarray | None:
    """Return the first images of a sheet in a folder as a strip; None if the sheet cannot be read."""
    height, width = evaluation.reference.size
    return make_strip(read_sheet(folder, folder / sheet, height, width)[:COLUMNS])


def shorten_folder(folder: Path) -> str:
    """Return the end of a path, "RUN/evaluations/1", because pages must not show where runs are stored."""
    parts = folder.resolve().parts
    return "/".join(parts[-3:] if parts[-2:-1] == (FOLDER,) else parts[-1:])


def shorten_values(values: Sequence[Any]) -> list[str]:
    """Return values as text, cut to `WIDEST` characters if different values still differ after the cut."""
    whole = [_format(value) for value in values]
    short = [text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..." for text in whole]
    return short if len(set(short)) == len(set(whole)) else whole


def _describe(row: Row) -> str:
    """Return a difference as text, or the reason why it is not known or why the row is not ranked."""
    return f"not ranked: {row.unranked}" if row.difference is None else str(row.difference)


def _format(value: Any) -> str:  # noqa: ANN401  (JSON)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else str(value)


def _cells(rows: Rows) -> list[list[Cell]]:
    return [[Cell(text) for text in row] for row in rows]
