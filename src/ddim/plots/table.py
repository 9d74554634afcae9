"""Tables of values: text for a terminal, HTML for a page or a notebook, CSV and data frames."""

from __future__ import annotations

import base64
import csv
import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddim.errors import escape

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-not-found]

SHOWN = 24
"""The largest number of rows of a result that its text and its HTML show."""

WIDTH = 80
"""The largest width of a line of prose, the width of a usual terminal."""


@dataclass(frozen=True)
class Table:
    """Rows of values under the names of their columns.

    Attributes:
        columns: the names of the columns.
        rows: plain values, one for each column; None for a missing value.
        notes: sentences below the table.
        words: the number of leading columns of words; numbers follow and are aligned right. None for all.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[str] = ()
    words: int | None = None

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, Any]], notes: Sequence[str] = ()) -> Table:
        """Return a table of dictionaries that are keyed by the names of columns."""
        columns = list(dict.fromkeys(name for record in records for name in record))
        return cls(columns, [[record.get(name) for name in columns] for record in records], notes)

    def __str__(self) -> str:
        """Return the table as lines of text with aligned columns, without colours or wrapping."""
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
        for index, name in enumerate(self.columns):
            table.add_column(name, justify="right" if self.is_number(index) else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*(escape(format_cell(value)) for value in row))
        # The console is wide enough for any table, because a path that is cut short cannot be copied.
        console = Console(width=10**5, color_system=None, markup=False, highlight=False, emoji=False)
        with console.capture() as capture:
            console.print(table)
        return "\n".join([*map(str.rstrip, capture.get().splitlines()), *map(wrap_text, self.notes)])

    def _repr_html_(self) -> str:
        return render_template("table.html", table=self)

    def is_number(self, index: int) -> bool:
        """Return whether a column holds numbers."""
        return self.words is not None and index >= self.words

    def to_csv(self) -> str:
        """Return the table as CSV."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.rows])
        return text.getvalue()


class Tabular:
    """A result that is shown as a table: as text, as HTML in a notebook, and as a data frame of pandas."""

    @property
    def verdict(self) -> str:
        """One line for a reader without statistics, above everything else; "" if there is none."""
        return ""

    @property
    def title(self) -> str:
        """The lines above the table."""
        return type(self).__name__

    @property
    def notes(self) -> Sequence[str]:
        """The lines below the table."""
        return ()

    def to_records(self) -> Sequence[Mapping[str, Any]]:
        """Return the rows of the table, plain values keyed by the names of the columns."""
        raise NotImplementedError

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a data frame, which needs pandas."""
        import pandas as pd  # type: ignore[import-not-found]

        return pd.DataFrame(self.to_records())

    def to_json(self) -> Mapping[str, Any]:
        """Return the whole result as plain values."""
        return {"verdict": self.verdict, "rows": self.to_records(), "notes": self.notes}

    def __repr__(self) -> str:
        """Return the verdict, the title and the table, without the notes."""
        prose = [wrap_text(self.verdict), wrap_text(self.title)]
        return "\n".join(part for part in (*prose, str(self._shown(()))) if part)

    @property
    def details(self) -> str:
        """The text of the result with its notes."""
        return "\n".join([repr(self), *map(wrap_text, self.notes)])

    def _repr_html_(self) -> str:
        title = "\n".join(filter(None, [self.verdict, self.title]))
        table = self._shown(self.notes)
        return render_template("result.html", title=title, picture=self._picture(), table=table)

    def _shown(self, notes: Sequence[str]) -> Table:
        rows = self._shown_rows()
        more = [f"{SHOWN} of {len(rows):,} rows are shown"] if len(rows) > SHOWN else []
        return Table.from_records(rows[:SHOWN], [*more, *notes])

    def _shown_rows(self) -> Sequence[Mapping[str, Any]]:
        """Return the rows that text and HTML show, by default the rows of the table."""
        return self.to_records()

    def _picture(self) -> bytes | None:
        """Return the content of a PNG file that a notebook shows above the table, or None."""
        return None


def format_cell(value: Any) -> str:  # noqa: ANN401 (a plain value)
    """Return a plain value as text: a float with four significant digits, "" for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def wrap_text(text: str, width: int = WIDTH, indent: str = "") -> str:
    """Return text in lines of at most `width` characters; no word is broken, and no line break is lost."""
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    options |= {"initial_indent": indent, "subsequent_indent": indent}
    return "\n".join(textwrap.fill(line, width, **options) for line in text.splitlines())


def _embed_png(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def render_template(name: str, **values: Any) -> str:  # noqa: ANN401 (the variables of a template)
    """Return HTML from a file in `templates`; every text in it is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader, options = PackageLoader("ddim.plots"), {"trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **options)
    # Jinja2 has no test for the class of a block, so templates get the test `a`.
    environment.tests["a"] = lambda block, kind: type(block).__name__ == kind
    environment.filters["cell"] = format_cell
    environment.filters["png"] = _embed_png
    return environment.get_template(name).render(**values)
