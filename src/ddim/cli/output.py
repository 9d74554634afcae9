"""Print the result of a command on standard output, as text or JSON, and everything else on
standard error.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddim.cli.streams import unescaped
from ddim.errors import escape


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
