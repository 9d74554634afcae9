"""What a data set is before it is decoded: a stream of named image files, wherever they lie."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

# The reason of a file that nobody meant to be an image: counted, never listed.
OTHER = "not an image"


@dataclass(frozen=True)
class Member:
    """One image file: its name in the source ("/" between folders) and its bytes, not yet decoded."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Reject:
    """A file that cannot be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Survey:
    """What is known of a source before it is decoded.

    content is a SHA-256 over names and bytes; channels is what most of the files have; count is the number of
    image files, others the number of files that are no images.
    """

    content: str
    channels: int
    count: int
    others: int


class Source(Protocol):
    """A stream of image files that can be read any number of times."""

    @property
    def official(self) -> bool:
        """Whether the source has a split of its own: its names then begin with "train/" or another folder."""
        ...

    def stamp(self) -> str:
        """A text that changes whenever the files may have changed, or "" where that cannot be known."""
        ...

    def survey(self) -> Survey | None:
        """What is known without reading; None where the files must be read to know."""
        ...

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Every file of the source; only drawn images depend on the size (height, width)."""
        ...


def bad_name(name: str) -> str | None:
    """Why the name of a file cannot be kept in records and shown on terminals, or None where it can."""
    kinds = {unicodedata.category(letter) for letter in name}
    if "Cs" in kinds:
        return "its name is not UTF-8"
    if "Cc" in kinds:
        return "its name holds control characters"
    return None


def labels_of(names: Sequence[str]) -> tuple[tuple[str, ...], list[int] | None]:
    """The class names, sorted, and the class index of each file name; ((), None) where there are no
    classes.

    Where every file lies equally deep, the class is the folder that holds it (train/rose/1.png and
    test/rose/2.png are both roses); otherwise, or where all these folders have one name, it is the first
    folder in which the paths differ. A file beside the class folders means that there are no classes.
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
