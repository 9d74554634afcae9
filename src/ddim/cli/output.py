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

from ddim.files.documents import read_sealed


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
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _as_json(value: Any) -> Any:  # noqa: ANN401  (any JSON, and paths)
    if isinstance(value, Mapping):
        return {str(name): _as_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def escape(text: str) -> str:
    """Return a text in which characters that could control a terminal are written as escapes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )
