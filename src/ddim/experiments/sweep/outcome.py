"""The outcome of a trial: a JSON file that is written once. This module imports neither torch nor Optuna."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ddim.errors import UserError
from ddim.experiments.sweep.document import write_once
from ddim.files import read_sealed


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        exit_code: exit code of the last command, or that of the error if the recipe is invalid; 0 means
            success.
        seconds: time that the last worker spent on the trial.
        message: the last line that the trial printed, or the message of the error.
        value: the number that a search minimises.
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
        """Write the outcome to a file, unless the file exists already."""
        with suppress(FileExistsError):
            write_once(path, asdict(self))


def read_outcome(path: Path) -> Outcome | None:
    """Return the outcome in a file, or None if the file does not exist yet.

    Raises:
        UserError: if the file is damaged.
    """
    if not path.exists():
        return None
    document = read_sealed(path)
    try:
        found = Outcome(**document)
    except TypeError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    kinds = (found.exit_code, int), (found.seconds, int | float), (found.message, str)
    if not all(isinstance(*pair) for pair in (*kinds, (found.value, int | float | None))):
        raise UserError(f"{path} is damaged: an entry has the wrong type")
    return found
