"""The tables that commands print."""

from __future__ import annotations

from collections.abc import Sequence

from ddim.errors import escape


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int | None = None) -> str:
    """Return rows as lines of text with aligned columns, without colours or wrapping.

    Args:
        head: the names of the columns.
        rows: the rows; each row has one cell for each column.
        numbers: index of the first column of numbers. This column and all later columns are aligned right.
            None aligns all columns left.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for index, name in enumerate(head):
        right = numbers is not None and index >= numbers
        table.add_column(name, justify="right" if right else "left", no_wrap=True, overflow="crop")
    for row in rows:
        table.add_row(*map(escape, row))
    # The console is wide enough for any table, because a path that is cut short cannot be copied.
    console = Console(width=10**5, color_system=None, markup=False, highlight=False, emoji=False)
    with console.capture() as capture:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def format_tabs(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines of text with tabs between the cells, for `cut` and other programs."""
    return "".join("\t".join(map(escape, row)) + "\n" for row in rows)
