"""The tables of a comparison of evaluations, as rows of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ddim.evaluation.compare import Comparison, Row

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
