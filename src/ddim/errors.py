"""Mistakes that a user can mend."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What was given cannot be used; the message is one sentence that says what, and what is possible.

    The command line prints it without a traceback and exits with code 2.
    """


def positive(owner: str, **values: float) -> None:
    """UserError, as of the field `owner`.NAME, for a value that is not above 0."""
    for name, value in values.items():
        if not value > 0:
            raise UserError(f"{owner}.{name} must be above 0, got {value}")


def amount(name: str, value: int, least: int = 1) -> None:
    """UserError for a number of things, of levels or pictures, below `least` or above a million.

    What is longer fills the memory before anyone looks at it, and is a slip of the keyboard.
    """
    if not least <= value <= 10**6:
        raise UserError(f"{name} must be at least {least} and at most 1,000,000, got {value}")


def near(word: str, possible: Iterable[str], alike: float = 0.5) -> str:
    """What to add to an error about a word: "; perhaps you meant ...", or nothing.

    `alike` in [0, 1] is the likeness from which one of `possible` is named.
    """
    found = difflib.get_close_matches(word, list(possible), 1, alike)
    return f"; perhaps you meant {found[0]}" if found else ""
