"""Print the result of a command on standard output, as text or JSON, and everything else on
standard error.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddim.cli.streams import unescaped
from ddim.errors import escape
from ddim.files import read_sealed


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add --json and --quiet, which every command has."""
    parser.add_argument("--json", action="store_true", help="print the whole result as one JSON document")
    parser.add_argument(
        "--quiet", action="store_true", help="print only errors and the result, or the result's folder"
    )


def print_result(args: argparse.Namespace, result: object, text: str, folder: Path | None = None) -> None:
    """Print a result on standard output: with --json the whole result, else the text about it.

    With --quiet, `folder` is printed in place of the text, if it is given.

    Args:
        args: the parsed arguments.
        result: plain values and paths; numbers that are not finite become null.
        text: the result for a reader, one or more lines.
        folder: the folder to which the command wrote, if a script needs nothing else from the text.
    """
    text = str(folder) if folder is not None and args.quiet else text
    shown = json.dumps(_as_json(result), indent=2, allow_nan=False) if args.json else text.rstrip("\n")
    sys.stdout.write(f"{shown}\n")
    sys.stdout.flush()


def read_result(folder: Path) -> dict[str, Any]:
    """Return the result that a command wrote into a folder: the folder and its record."""
    return {"folder": folder, **read_sealed(folder / "record.json")}


def say(text: str) -> None:
    """Print a line on standard error; if a progress bar is drawn there, the bar stays below the line."""
    # While a bar is drawn, sys.stderr is an object of rich, which does not escape.
    sys.stderr.write(escape(text, "\n\t") + "\n")
    sys.stderr.flush()


def draw(text: str) -> None:
    """Print a picture of coloured characters on standard error; see `say`."""
    stream = unescaped(sys.stderr)
    stream.write(text + "\n")
    stream.flush()


def _as_json(value: Any) -> Any:  # noqa: ANN401  (any JSON, and paths)
    if isinstance(value, Mapping):
        return {str(name): _as_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def print_json(value: object) -> None:
    """Print plain values and paths as one JSON document; numbers that are not finite become null."""
    print_text(json.dumps(_as_json(value), indent=2, allow_nan=False))


def print_text(text: str) -> None:
    """Print lines on standard output."""
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()
