"""A comparison of evaluations as tables, and as a page with their samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddim.evaluation.compare import Comparison, Row
from ddim.evaluation.record import FOLDER, GRID
from ddim.plots.page import Block, Cell, Heading, Picture, Table, Text, save_page

Rows = list[list[str]]

HEAD = ["place", "evaluation", "samples", "value", "95 % interval", "minus the first"]
"""The names of the columns of `ranking_rows`."""

WIDEST = 32
"""Longest value in characters; a longer one is cut if it can still be distinguished from the others."""


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
                f"{row.evaluation.record['generated']['images']:,}",
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
    record = comparison.first.record
    features, reference = record["features"], record["reference"]
    how = (
        f"Features of {features['extractor']} (weights {features['weights'][:8]}, {features['resize']}), "
        f"compared with {reference['images']:,} images, {reference['part']} of "
        f"{Path(reference['source']).name}. Differences have 95 % intervals, which are conservative except "
        "for KID. If an interval holds 0, the two are not distinguishable at 95 %."
    )
    notes: list[str] = []
    images: dict[str, bytes] = {}
    pictures: list[Block] = []
    for number, (name, row) in enumerate(zip(names, comparison.rows, strict=True), 1):
        notes += [f"{name}: {note}" for note in row.evaluation.record.get("notes", [])]
        sheet = row.evaluation.folder / GRID
        if sheet.is_file():
            images[f"{number:03}.png"] = sheet.read_bytes()
            pictures.append(Picture(f"{number:03}.png", name))
    blocks: list[Block] = [Text(how), Table(HEAD, _cells(ranking_rows(comparison, names)), 2, notes)]
    if choices := choice_rows(comparison):
        head = ["", *names]
        blocks += [Heading("What differs"), Table(head, _cells(choices), len(head))]
    blocks += [Heading("Samples"), *pictures] if pictures else []
    return save_page(out, comparison.title, blocks, images)


def shorten_folder(folder: Path) -> str:
    """Return a path from the run's name on, "RUN/evaluations/1": pages must not show where runs lie."""
    parts = folder.resolve().parts
    return "/".join(parts[-3:] if parts[-2:-1] == (FOLDER,) else parts[-1:])


def shorten_values(values: Sequence[Any]) -> list[str]:
    """Return values as text, cut to `WIDEST` characters if different values still differ after the cut."""
    whole = [_format(value) for value in values]
    short = [text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..." for text in whole]
    return short if len(set(short)) == len(set(whole)) else whole


def _describe(row: Row) -> str:
    """Return a difference, or why there is none, or why a row is not ranked."""
    return f"not ranked: {row.unranked}" if row.difference is None else str(row.difference)


def _format(value: Any) -> str:  # noqa: ANN401  (JSON)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else str(value)


def _cells(rows: Rows) -> list[list[Cell]]:
    return [[Cell(text) for text in row] for row in rows]
