"""Values that are shown as tables: as text, as HTML in a notebook, and as data frames."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.errors import UserError

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-not-found]

Row = Mapping[str, Any]
"""A row of a table: plain values keyed by column name; None for a missing value."""


class Tabular:
    """A value that is shown as a table: as text, as HTML in a notebook, and as a data frame of pandas."""

    def to_records(self) -> Sequence[Row]:
        """Return the rows of the table; all rows have the same columns."""
        raise NotImplementedError

    def to_frame(self) -> pd.DataFrame:
        """Return the table as a data frame. A column without any value holds NaN, so that it stays numeric.

        Raises:
            UserError: if pandas is not installed.
        """
        try:
            import pandas as pd  # type: ignore[import-not-found]
        except ImportError:
            raise UserError("to_frame() needs pandas, which is not installed: pip install pandas") from None
        rows = self.to_records()
        known = {name for row in rows for name, value in row.items() if value is not None}
        return pd.DataFrame([{n: v if n in known else math.nan for n, v in row.items()} for row in rows])

    def __repr__(self) -> str:
        return "\n".join([self.title, format_rows(self._shown_rows()), *self.notes])

    def _repr_html_(self) -> str:
        every = self._shown_rows()
        rows = every[:SHOWN]
        heads = "".join(f"<th>{html.escape(name)}</th>" for name in (rows[0] if rows else ()))
        cells = [
            "".join(f"<td>{html.escape(format_cell(value))}</td>" for value in row.values()) for row in rows
        ]
        body = "".join(f"<tr>{line}</tr>" for line in cells)
        below = [*_shown_note(every), *self.notes]
        note = "".join(f"<div>{html.escape(text)}</div>" for text in below)
        lines = "".join(f"<div>{html.escape(line)}</div>" for line in self.title.splitlines())
        return f"{lines}{self._picture()}<table><tr>{heads}</tr>{body}</table>{note}"

    def _shown_rows(self) -> Sequence[Row]:
        """Return the rows that text and HTML show, by default the rows of the table."""
        return self.to_records()

    def _picture(self) -> str:
        """Return HTML between the title and the table, such as the result of `embed_png`."""
        return ""

    @property
    def title(self) -> str:
        """The line above the table."""
        return type(self).__name__

    @property
    def notes(self) -> Sequence[str]:
        """The lines below the table."""
        return ()


def embed_png(content: bytes) -> str:
    """Return an HTML element that contains the image of a PNG file."""
    return f'<img style="max-width:100%" src="data:image/png;base64,{base64.b64encode(content).decode()}">'


def embed_picture(folder: Path, path: Path) -> str:
    """Return an HTML element with a picture of a folder; "" if it cannot be read, see `read_picture`."""
    try:
        return embed_png(read_picture(folder, path))
    except (UserError, OSError):
        return ""


SHOWN = 24
"""The largest number of rows of a table that its text and its HTML show."""


def format_rows(rows: Sequence[Row]) -> str:
    """Return rows as text in columns. If there are more than `SHOWN` rows, a last line says so."""
    if not rows:
        return "(no rows)"
    cells = [list(rows[0]), *([format_cell(value) for value in row.values()] for row in rows[:SHOWN])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    return "\n".join([*lines, *_shown_note(rows)])


def _shown_note(rows: Sequence[Row]) -> list[str]:
    """Return a line that says how many rows are shown; [] if all rows are shown."""
    return [f"{SHOWN} of {len(rows):,} rows are shown"] if len(rows) > SHOWN else []


def format_cell(value: Any) -> str:  # noqa: ANN401 (a plain value)
    """Return a plain value as text: a float with four significant digits, "" for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
