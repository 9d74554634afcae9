"""Pages: blocks rendered as one self-contained HTML file, and as Markdown with its images beside it.

Text in blocks is plain. Both templates escape every expression, so that no text can become markup.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddim.errors import UserError
from ddim.files import make_folder, write_atomic

MARK = "made by ddim"
"""What both files say of their maker; only files that say so are replaced."""


@dataclass(frozen=True)
class Heading:
    """The title of a section."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Cell:
    """A cell of a table; `best` makes it bold."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells under heads, with `notes` below; the first `words` columns are text, the rest numbers."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: int
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    """A PNG file by its name, with a caption."""

    file: str
    caption: str


@dataclass(frozen=True)
class Strips:
    """Wide PNG files, one a row, each after its name: (name, file)."""

    rows: Sequence[tuple[str, str]]


Block = Heading | Text | Table | Picture | Strips


def check_page_path(out: str | Path) -> None:
    """Check that a page can be written to `out` without replacing files that are not ours.

    A folder of images counts as ours where a page of ours lies beside it.

    Raises:
        UserError: if `out` does not end in .html, its folder does not exist, or it would replace other files.
    """
    out = Path(out)
    if out.suffix != ".html":
        raise UserError(f"--out must end in .html, got {str(out)!r}")
    if not out.parent.is_dir():
        raise UserError(f"--out {str(out)!r} lies in a folder that does not exist")
    pages, images = [path for path in _files(out) if path.exists()], _image_folder(out)
    others = [path for path in pages if not _is_ours(path)]
    if images.exists() and not (pages and images.is_dir()):
        others.append(images)
    if others:
        raise UserError(f"{others[0]} exists and was not made by ddim: give another name as --out")


def save_page(
    out: str | Path, title: str, blocks: Sequence[Block], images: Mapping[str, bytes]
) -> list[Path]:
    """Write a page as HTML to `out`, and as Markdown with its images beside it.

    Args:
        out: the path of the HTML file.
        title: the title of the page.
        blocks: what the page shows, from top to bottom.
        images: the content of the PNG files by name.

    Returns:
        The paths of the two files.

    Raises:
        UserError: as `check_page_path`.
    """
    out = Path(out)
    check_page_path(out)
    folder = _image_folder(out)
    pages = to_html(title, blocks, images), to_markdown(title, blocks, folder.name)
    # First: images without a page are taken for somebody else's.
    for path, page in zip(_files(out), pages, strict=True):
        write_atomic(path, page.encode())
    make_folder(folder)
    for name, png in images.items():
        write_atomic(folder / name, png)
    return _files(out)


def to_html(title: str, blocks: Sequence[Block], images: Mapping[str, bytes]) -> str:
    """Render one self-contained page; `images` holds the content of its PNG files by name."""
    data = {name: f"data:image/png;base64,{base64.b64encode(png).decode()}" for name, png in images.items()}
    return _render("page.html", title, blocks, {"images": data}, autoescape=True)


def to_markdown(title: str, blocks: Sequence[Block], folder: str) -> str:
    """Render the page as Markdown; its images lie in `folder`, beside it."""
    files = [block.file for block in blocks if isinstance(block, Picture)]
    files += [file for block in blocks if isinstance(block, Strips) for _, file in block.rows]
    links = {file: _Link(f"{folder}/{file}") for file in files}
    return _render("page.md", title, blocks, {"links": links}, finalize=_escape_markdown)


class _Link(str):
    """A path in Markdown that is written as it is."""


def _render(
    template: str,
    title: str,
    blocks: Sequence[Block],
    values: Mapping[str, Any],
    **options: Any,  # noqa: ANN401 (options of Jinja2)
) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ddim.plots"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        **options,
    )
    named = [(type(block).__name__, block) for block in blocks]
    return environment.get_template(template).render(title=title, blocks=named, mark=MARK, **values)


def _escape_markdown(value: str) -> str:
    """Return text that means nothing to Markdown, on one line."""
    if isinstance(value, _Link):
        return value
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&$])", r"\\\1", " ".join(value.split()))


def _files(out: Path) -> list[Path]:
    return [out, out.with_suffix(".md")]


def _image_folder(out: Path) -> Path:
    return out.with_name(f"{out.stem}-files")


def _is_ours(path: Path) -> bool:
    return path.is_file() and MARK in path.read_text(encoding="utf-8", errors="replace")[:400]
