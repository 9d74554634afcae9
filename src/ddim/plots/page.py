"""Pages: a list of blocks, rendered as one HTML file that contains its images and loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ddim.errors import UserError
from ddim.files import write_atomic
from ddim.plots.table import Table, render_template

MARK = "made by ddim"
"""A text in all pages of this library; only files that contain it are replaced."""


class Heading(NamedTuple):
    """The title of a section."""

    text: str


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Picture(NamedTuple):
    """An image with a caption; `file` is the name of its PNG file."""

    file: str
    caption: str


class Strips(NamedTuple):
    """Wide images, one below the other; each row is a pair (name on the left, PNG file)."""

    rows: Sequence[tuple[str, str]]


class Folded(NamedTuple):
    """Blocks that are shown when the reader opens them; `title` is always shown."""

    title: str
    blocks: Sequence[Heading | Text | Table | Picture | Strips]


Block = Heading | Text | Table | Picture | Strips | Folded


def check_page_path(out: str | Path) -> None:
    """Check that a page can be written to `out`, and that it would replace only an earlier page.

    Raises:
        UserError: if `out` does not end in .html, its folder is missing, or another file would be replaced.
    """
    out = Path(out)
    if out.suffix != ".html" or not out.parent.is_dir():
        raise UserError(f"a page is written as FILE.html into a folder that exists, got {str(out)!r}")
    if out.exists() and MARK not in out.read_text(encoding="utf-8", errors="replace")[:400]:
        raise UserError(f"{str(out)!r} exists and was not made by ddim: give another name")


def save_page(out: str | Path, title: str, blocks: Sequence[Block], images: Mapping[str, bytes]) -> None:
    """Write a page to the file `out`; see `check_page_path` and `to_html`."""
    check_page_path(out)
    write_atomic(Path(out), to_html(title, blocks, images).encode())


def to_html(title: str, blocks: Sequence[Block], images: Mapping[str, bytes]) -> str:
    """Return a page of blocks; `images` is the content of its PNG files, keyed by file name."""
    return render_template("page.html", title=title, blocks=blocks, images=images, mark=MARK)
