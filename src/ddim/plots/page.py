"""A page of blocks -> Markdown with pictures beside it, or one HTML file with everything inside.

Text in blocks is plain: each of the two writers escapes it, and there is no other way into a page.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ddim.errors import UserError
from ddim.files import make_folder, write_atomic

MARK = "made by ddim"
"""What both files say of their maker."""


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
    """Rows under heads; the first `words` columns are text, the others numbers; `notes` stand below."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: int
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    """A picture by the name of its PNG file, with words below it."""

    file: str
    caption: str


@dataclass(frozen=True)
class Strips:
    """Pictures in rows, each with its name before it: (name, file)."""

    rows: Sequence[tuple[str, str]]


Block = Heading | Text | Table | Picture | Strips


def check_out(out: Path) -> None:
    """UserError unless a page can go to `out`: an .html file in a folder that is there, not of others.

    Of pictures beside it only a page that is there says that they are not of others.
    """
    if out.suffix != ".html":
        raise UserError(f"--out must end in .html, got {str(out)!r}")
    if not out.parent.is_dir():
        raise UserError(f"--out {str(out)!r} lies in a folder that does not exist")
    pages, pictures = [path for path in _files(out) if path.exists()], _pictures(out)
    others = [path for path in pages if not _made(path)]
    if pictures.exists() and not (pages and pictures.is_dir()):
        others.append(pictures)
    if others:
        raise UserError(f"{others[0]} exists and was not made by ddim: give another name as --out")


def save_page(out: Path, title: str, blocks: Sequence[Block], images: Mapping[str, bytes]) -> list[Path]:
    """Write a page as `out`, an .html file, and as Markdown with its pictures beside it: the two files.

    `images` are PNG files by name. UserError as `check_out`.
    """
    check_out(out)
    folder = _pictures(out)
    pages = to_html(title, blocks, images), to_markdown(title, blocks, folder.name)
    # First: pictures without a page are taken for those of others.
    for path, page in zip(_files(out), pages, strict=True):
        write_atomic(path, page.encode())
    make_folder(folder)
    for name, png in images.items():
        write_atomic(folder / name, png)
    return _files(out)


def to_html(title: str, blocks: Sequence[Block], images: Mapping[str, bytes]) -> str:
    """One self-contained page: `images` are PNG files by name, put into it. It asks no other address."""
    body = "\n".join(_html(block, images) for block in blocks)
    # Even a browser is told to ask nothing.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="{MARK}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{html.escape(title)}</h1>
{body}
</main>
</body>
</html>
"""


def to_markdown(title: str, blocks: Sequence[Block], folder: str) -> str:
    """The page as Markdown; the pictures lie in `folder` beside it."""
    parts = [f"<!-- {MARK} -->", f"# {_plain(title)}", *(_markdown(block, folder) for block in blocks)]
    return "\n\n".join(parts) + "\n"


def _files(out: Path) -> list[Path]:
    return [out, out.with_suffix(".md")]


def _pictures(out: Path) -> Path:
    return out.with_name(f"{out.stem}-files")


def _made(path: Path) -> bool:
    return path.is_file() and MARK in path.read_text(encoding="utf-8", errors="replace")[:400]


def _html(block: Block, images: Mapping[str, bytes]) -> str:
    say = html.escape
    match block:
        case Heading(text):
            return f"<h2>{say(text)}</h2>"
        case Text(text):
            return f"<p>{say(text)}</p>"
        case Table(heads, rows, words, notes):
            return _html_table(heads, rows, words) + "".join(f'<p class="note">{say(n)}</p>' for n in notes)
        case Picture(file, caption):
            image = f'<img src="{_data(images[file])}" alt="{say(caption)}">'
            return f"<figure>{image}<figcaption>{say(caption)}</figcaption></figure>"
        case Strips(rows):
            lines = (
                f'<div class="strip"><span>{say(name)}</span>'
                f'<img class="pixels" src="{_data(images[file])}" alt="{say(name)}"></div>'
                for name, file in rows
            )
            return "\n".join(lines)


def _html_table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], words: int) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        kinds = ["" if k < words else ' class="number"' for k in range(len(cells))]
        inner = (f"<{tag}{kind}>{cell}</{tag}>" for cell, kind in zip(cells, kinds, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    def shown(cell: Cell) -> str:
        text = html.escape(cell.text)
        return f"<strong>{text}</strong>" if cell.best else text

    head = line([html.escape(head) for head in heads], "th")
    body = "\n".join(line([shown(cell) for cell in row], "td") for row in rows)
    return f'<div class="wide"><table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _markdown(block: Block, folder: str) -> str:
    match block:
        case Heading(text):
            return f"## {_plain(text)}"
        case Text(text):
            return _plain(text)
        case Table(heads, rows, words, notes):
            rule = ["---" if k < words else "---:" for k in range(len(heads))]
            lines = [[_plain(head) for head in heads], rule]
            lines += [[f"**{_plain(c.text)}**" if c.best else _plain(c.text) for c in row] for row in rows]
            table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
            return "\n\n".join([table, *(_plain(note) for note in notes)])
        case Picture(file, caption):
            return f"![{_plain(caption)}]({folder}/{file})\n\n*{_plain(caption)}*"
        case Strips(rows):
            return "\n\n".join(f"{_plain(name)}\n\n![{_plain(name)}]({folder}/{file})" for name, file in rows)


def _plain(text: str) -> str:
    """Text that means nothing to Markdown, on one line."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&$])", r"\\\1", " ".join(text.split()))


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


_STYLE = """
body { margin: 0; background: #fff; color: #2b2b2b;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 2.5rem 1.5rem 5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 3rem 0 .8rem; }
p { max-width: 46rem; margin: .6rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; margin: .8rem 0; }
th, td { text-align: left; vertical-align: top; padding: .38rem 1.5rem .38rem 0; white-space: nowrap; }
th { font-weight: 600; border-bottom: 1.5px solid #2b2b2b; }
td { border-bottom: 1px solid #e6e6e6; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
strong { color: #1f6fb4; }
.note, figcaption { color: #6b6b6b; font-size: .86rem; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; }
.strip { display: flex; align-items: center; gap: 1rem; margin: .45rem 0; }
.strip span { flex: 0 0 15rem; font-size: .9rem; overflow-wrap: anywhere; }
.strip img { min-width: 0; max-width: calc(100% - 16rem); height: auto; }
.pixels { image-rendering: pixelated; }
@media (max-width: 45rem) { .strip { display: block; } .strip img { max-width: 100%; } }
"""
