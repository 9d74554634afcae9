"""The messages of argparse in plain words."""

from __future__ import annotations

import re
from pathlib import Path

from ddim.errors import suggest


def explain_parse_error(message: str) -> str:
    """Return a message of argparse in plain words."""
    if found := re.fullmatch(r"argument (?:.*/)?(\S+): invalid (int|float) value: (.*)", message):
        return f"{found[1]} must be a {'whole ' if found[2] == 'int' else ''}number, got {found[3]}"
    if found := re.fullmatch(r"argument (\S+): invalid choice: (\S+) \(choose from (.*)\)", message):
        known = [word.strip("'\"") for word in found[3].split(", ")]
        given = found[2].strip("'\"")
        return f"{found[1]} must be one of {', '.join(known)}, got {given!r}{suggest(given, known)}"
    missing = message.removeprefix("the following arguments are required: ")
    if missing == message:
        return message
    newest = max(Path("runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime, default=None)
    hint = f", such as {newest.parent}" if newest and missing.split(",")[0] == "RUN" else ""
    return f"{missing} must be given{hint}"
