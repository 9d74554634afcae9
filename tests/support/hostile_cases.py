"""The list of hostile files, with the words of the command that meets each of them.

A case writes into an empty folder and returns the words. It must be refused in one sentence; of the cases in
`PARTLY` a part can be used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bad_images import encoded, picture

Case = Callable[[Path], list[str]]

CASES: dict[str, Case] = {}
"""All cases, keyed by name."""

PARTLY: set[str] = set()
"""The names of the cases of which a part can be used."""

GIB = 2**30


def case(function: Case) -> Case:
    """Add a case that must be refused."""
    CASES[function.__name__] = function
    return function


def partly(function: Case) -> Case:
    """Add a case of which a part can be used."""
    PARTLY.add(function.__name__)
    return case(function)


def add(name: str, function: Case, *, part: bool = False) -> None:
    """Add a case with a name; with `part`, a part of it can be used."""
    CASES[name] = function
    if part:
        PARTLY.add(name)


def good() -> bytes:
    """An image that can be used."""
    return encoded(picture(8, 8), "PNG")


def data(path: Path) -> list[str]:
    """The command that reads a source of images."""
    return ["data", path.name, "--size", "8"]


def lengthened(size: int) -> Callable[[Path], object]:
    """Return the function that writes a file of `size` zero bytes, which take no room on the disk."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return write
