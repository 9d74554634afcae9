"""The tables that commands print."""

from __future__ import annotations

from collections.abc import Sequence

from ddim.errors import escape
from ddim.plots.table import Table


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int | None = None) -> str:
    """Return rows as lines of text with aligned columns, without colours or wrapping.

    Args:
        head: the names of the columns.
        rows: the rows; each row has one cell for each column.
        numbers: index of the first column of numbers. This column and all later columns are aligned right.
            None aligns all columns left.
    """
    return f"{Table(head, rows, words=numbers)}\n"


def format_tabs(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines of text with tabs between the cells, for `cut` and other programs."""
    return "".join("\t".join(map(escape, row)) + "\n" for row in rows)
