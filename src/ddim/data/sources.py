"""Sources of images before decoding: a stream of named files, from a folder, an archive or a program."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

# The reason for a file that was never meant to be an image: it is counted, not listed.
OTHER = "not an image"


@dataclass(frozen=True)
class Member:
    """One image file: its name in the source ("/" between folders) and its bytes, not yet decoded."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Reject:
    """A file that cannot be used, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Survey:
    """What is known about a source before it is decoded.

    Attributes:
        content: a SHA-256 over names and bytes.
        channels: the number of channels that most files have.
        count: number of image files.
        others: number of files that are not images.
    """

    content: str
    channels: int
    count: int
    others: int


class Source(Protocol):
    """A stream of image files that can be read any number of times."""

    @property
    def official(self) -> bool:
        """Whether the source has a split of its own: names of training images then begin with "train/"."""

    def stamp(self) -> str:
        """Return a text that changes if the files may have changed; "" if that cannot be known."""

    def survey(self) -> Survey | None:
        """Return the survey if it is known without reading the files, else None."""

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Read every file of the source; only drawn images depend on the size (height, width)."""


def explain_bad_name(name: str) -> str | None:
    """Return why the name of a file cannot be stored and shown on terminals; None if it can."""
    kinds = {unicodedata.category(letter) for letter in name}
    if "Cs" in kinds:
        return "its name is not UTF-8"
    if "Cc" in kinds:
        return "its name contains control characters"
    return None


def find_classes(names: Sequence[str]) -> tuple[tuple[str, ...], list[int] | None]:
    """Return the sorted class names, and the class index of each file; ((), None) without classes.

    If all files lie equally deep, the class of a file is its folder: train/rose/1.png and test/rose/2.png are
    both roses. Otherwise, or if all these folders have one name, it is the first folder in which the paths
    differ. A file beside the class folders means that there are no classes.
    """
    folders = [tuple(name.split("/")[:-1]) for name in names]
    if not folders or len(set(folders)) < 2:
        return (), None
    shared = 0
    while len({folder[: shared + 1] for folder in folders}) == 1:
        shared += 1
    if min(map(len, folders)) <= shared:
        return (), None
    found = [folder[-1] for folder in folders]
    if len({len(folder) for folder in folders}) > 1 or len(set(found)) < 2:
        found = [folder[shared] for folder in folders]
    classes = tuple(sorted(set(found)))
    place = {name: index for index, name in enumerate(classes)}
    return classes, [place[name] for name in found]
