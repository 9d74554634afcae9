"""Pages: a list of blocks, rendered as a self-contained HTML file, and as Markdown with a folder of images.

Blocks contain plain text. Both templates escape this text, so that it is never interpreted as markup.
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
"""A text in all HTML and Markdown pages of this library; only files that contain it are replaced."""


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
    """A cell of a table; it is bold if `best` is set."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table with `notes` below it; the first `words` columns contain text, the others numbers."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: int
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    """An image with a caption; `file` is the name of its PNG file."""

    file: str
    caption: str


@dataclass(frozen=True)
class Strips:
    """Wide images, one below the other; each row is a pair (name on the left, PNG file)."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Folded:
    """Blocks that are shown when the reader opens them; `title` is always shown."""

    title: str
    blocks: Sequence[Heading | Text | Table | Picture | Strips]


@dataclass(frozen=True)
class Code:
    """A program or a command; `language` is its name in a fence of Markdown, such as "python" or "sh"."""

    text: str
    language: str = "python"


Block = Heading | Text | Table | Picture | Strips | Folded | Code


def check_page_path(out: str | Path) -> None:
    """Check that a page can be written to `out`, and that it would replace only an earlier page.

    The images of a page lie in a folder beside it. If this folder exists, an earlier page must lie beside it.

    Raises:
        UserError: if `out` does not end in .html, its folder does not exist, or other files would be
            replaced.
    """
    out = Path(out)
    if out.suffix != ".html":
        raise UserError(f"--out must end in .html, got {str(out)!r}")
    if not out.parent.is_dir():
        raise UserError(f"--out {str(out)!r} lies in a folder that does not exist: create the folder first")
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
        blocks: the content of the page, from top to bottom.
        images: the content of the PNG files, keyed by file name.

    Returns:
        The paths of the two files.

    Raises:
        UserError: for the reasons given in `check_page_path`.
    """
    out = Path(out)
    check_page_path(out)
    folder = _image_folder(out)
    pages = to_html(title, blocks, images), to_markdown(title, blocks, folder.name)
    # Pages are written before images: after an interruption, `check_page_path` would refuse a folder
    # of images that has no page beside it.
    for path, page in zip(_files(out), pages, strict=True):
        write_atomic(path, page.encode())
    make_folder(folder)
    for name, png in images.items():
        write_atomic(folder / name, png)
    return _files(out)


def to_html(title: str, blocks: Sequence[Block], images: Mapping[str, bytes]) -> str:
    """Return a self-contained HTML page; `images` is the content of its PNG files, keyed by file name."""
    data = {name: f"data:image/png;base64,{base64.b64encode(png).decode()}" for name, png in images.items()}
    return _render("page.html", title, blocks, {"images": data}, autoescape=True)


def to_markdown(title: str, blocks: Sequence[Block], folder: str) -> str:
    """Return a page as Markdown; its images are in `folder`, which lies beside the file of the page."""
    # Markdown has no blocks that can be folded, so their contents are shown under a heading.
    flat: list[Block] = []
    for block in blocks:
        flat += [Heading(block.title), *block.blocks] if isinstance(block, Folded) else [block]
    files = [block.file for block in flat if isinstance(block, Picture)]
    files += [file for block in flat if isinstance(block, Strips) for _, file in block.rows]
    links = {file: _Verbatim(f"{folder}/{file}") for file in files}
    values = {"links": links, "fenced": _fence}
    return _render("page.md", title, flat, values, finalize=_escape_markdown)


class _Verbatim(str):
    """A path in a Markdown link, or a program between fences, inserted without escaping."""


def _fence(code: Code) -> _Verbatim:
    """Return a program between fences that are longer than any row of backticks in it."""
    longest = max(map(len, re.findall("`+", code.text)), default=0)
    fence = "`" * max(3, longest + 1)
    return _Verbatim(f"{fence}{code.language}\n{code.text.rstrip()}\n{fence}")


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
    # Jinja2 has no test for the class of a block, so templates get the test `a`.
    environment.tests["a"] = lambda block, kind: type(block).__name__ == kind
    return environment.get_template(template).render(title=title, blocks=blocks, mark=MARK, **values)


def _escape_markdown(value: str) -> str:
    """Return the text on one line, its special characters escaped; a `_Verbatim` stays as it is."""
    if isinstance(value, _Verbatim):
        return value
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&$])", r"\\\1", " ".join(value.split()))


def _files(out: Path) -> list[Path]:
    return [out, out.with_suffix(".md")]


def _image_folder(out: Path) -> Path:
    return out.with_name(f"{out.stem}-files")


def _is_ours(path: Path) -> bool:
    return path.is_file() and MARK in path.read_text(encoding="utf-8", errors="replace")[:400]
