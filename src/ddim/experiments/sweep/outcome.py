"""The outcome of a trial: one JSON file, written once, read without torch and without Optuna."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ddim.errors import UserError
from ddim.files import read_json, write_once


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    `exit_code` is that of its last command, 0 if all went well. `seconds` is the time that the last worker
    spent on it, `message` the last line that it printed. `value` is the number that a search minimises.
    """

    exit_code: int
    seconds: float
    message: str
    value: float | None = None

    @property
    def failed(self) -> bool:
        """Whether a command of the trial ended with an error."""
        return self.exit_code != 0

    def write(self, path: Path) -> None:
        """Write the file; an earlier outcome is not replaced."""
        with suppress(FileExistsError):
            write_once(path, json.dumps(asdict(self), indent=1).encode() + b"\n")


def read_outcome(path: Path) -> Outcome | None:
    """Read the outcome of a trial; None while the trial has none.

    Raises:
        UserError: if the file is damaged.
    """
    if not path.exists():
        return None
    document = read_json(path)
    try:
        return Outcome(**document)
    except TypeError as error:
        raise UserError(f"{path} is damaged: {error}") from None
