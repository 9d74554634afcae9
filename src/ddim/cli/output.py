"""Print the result of a command on standard output, and everything else on standard error."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import chain
from typing import IO, Any

from ddim.cli.streams import unescaped
from ddim.errors import escape


def say(text: str) -> None:
    """Print lines on standard error; if a progress bar is drawn there, the bar stays below them."""
    # While a bar is drawn, sys.stderr is an object of rich, which does not escape.
    sys.stderr.write(fit_terminal(escape(text, "\n\t"), sys.stderr) + "\n")
    sys.stderr.flush()


def print_text(text: str) -> None:
    """Print lines on standard output."""
    sys.stdout.write(fit_terminal(text.rstrip("\n"), sys.stdout) + "\n")
    sys.stdout.flush()


def fit_terminal(text: str, stream: IO[str]) -> str:
    """Return lines that fit a terminal without a broken word; lines for a file or a pipe stay as they are."""
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    lines = ([line] if len(line) <= width else wrap_words(line, width) for line in text.split("\n"))
    return "\n".join(chain(*lines))


def wrap_words(text: str, width: int, indent: str = "") -> list[str]:
    """Return lines of at most `width` characters; a longer word, such as a path, has its own line."""
    options = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, **options)


def draw(images: Sequence[Any], terminal: IO[str], rows: int = 1) -> None:
    """Draw images (H, W, C) uint8 on standard error, if `terminal`, the file behind it, can show colours."""
    from ddim.plots.preview import arrange_preview, can_preview, render_preview

    if can_preview(terminal):
        stream, columns = unescaped(sys.stderr), shutil.get_terminal_size().columns
        stream.write(render_preview(arrange_preview(images, columns, rows)) + "\n")
        stream.flush()


def print_json(value: object) -> None:
    """Print plain values and paths as one JSON document; numbers that are not finite become null."""
    plain = json.loads(json.dumps(value, default=str), parse_constant=lambda name: None)
    sys.stdout.write(json.dumps(plain, indent=2) + "\n")
    sys.stdout.flush()
