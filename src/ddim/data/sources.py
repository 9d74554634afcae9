"""Sources of images before decoding: streams of named files from a folder, an archive or a program."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from ddim.data.values import LARGEST, Values, ValueType, choose_range
from ddim.errors import UserError

# The reason in the `Reject` of a file that is not an image, such as a text file. These files are counted, but
# not listed.
OTHER = "not an image"


@dataclass(frozen=True)
class Member:
    """One image of a source.

    Attributes:
        name: its name in the source, with "/" between folders.
        data: an encoded image file, or pixels (H, W, C) of uint8, uint16 or float32.
        label: the name or the index of its class, if the source stores labels apart from names.
    """

    name: str
    data: bytes | np.ndarray
    label: str | int | None = None


@dataclass(frozen=True)
class Reject:
    """A file that cannot be used, and the reason."""

    name: str
    reason: str


class Unreadable(Reject):
    """A file that could not be read; the fault may be temporary, such as an input/output error."""


@dataclass(frozen=True)
class Survey:
    """What is known about a source before its images are decoded.

    Attributes:
        content: a SHA-256 of the names and bytes of all files.
        channels: the most frequent number of channels.
        count: number of image files.
        others: number of files that are not images.
        values: the most frequent type of values.
        low: the smallest value of all float images; infinity if there are none.
        high: the largest value of all float images; -infinity if there are none.
    """

    content: str
    channels: int
    count: int
    others: int
    values: ValueType = "uint8"
    low: float = math.inf
    high: float = -math.inf

    def find_values(self, wanted: Literal["auto"] | ValueType = "auto") -> Values:
        """Return the type and range of the pixel values.

        The type is `wanted`. If `wanted` is "auto", the most frequent type is used.
        """
        kind = self.values if wanted == "auto" else wanted
        if kind == "float32":
            return Values("float32", *choose_range(min(self.low, self.high), self.high))
        return Values(kind, 0.0, LARGEST[kind])


class Source(Protocol):
    """A stream of image files that can be read any number of times.

    A class that inherits from this class needs only `stamp` and `members`.

    Attributes:
        official: whether the source defines a split; then the names of training images begin with "train/".
        class_names: the names of the classes, if they are stored apart from the names of the files.
    """

    official: bool = False
    class_names: Sequence[str] = ()

    def stamp(self) -> str:
        """Return a text that changes if the files may have changed; "" if changes cannot be detected."""

    def survey(self) -> Survey | None:
        """Return the survey if it is known without reading the files, else None."""
        return None

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Yield every file of the source; `size` (height, width) matters only for generated images."""

    def count_files(self) -> int:
        """Return the number of files that `members` yields; 0 if it is unknown before they are read."""
        return 0

    def find_classes(self, names: Sequence[str]) -> tuple[tuple[str, ...], list[int] | None]:
        """Return the class names, and the class index of each file, by default those of its folder."""
        return find_classes(names)


def find_labels(
    names: Sequence[str], labels: Sequence[str | int | None], class_names: Sequence[str] = ()
) -> tuple[tuple[str, ...], list[int] | None]:
    """Return the class names, and the class index of each image; ((), None) if there are no classes.

    The classes are those of the labels, or of the folders in the names if there are no labels. Texts are the
    names of classes. Integers are indices into `class_names`, or into "0", "1", ... if these do not fit.

    Raises:
        UserError: if only some images have a label.
    """
    given = [label for label in labels if label is not None]
    if not given:
        return find_classes(names)
    if len(given) < len(labels):
        raise UserError(f"every image needs a label, or none: {len(given)} of {len(labels)} have one")
    numbers = [label for label in given if isinstance(label, int)]
    if len(numbers) == len(given):
        count = max(*numbers, len(class_names) - 1, 0) + 1
        known = len(class_names) == count == len(set(class_names))
        return tuple(class_names if known else map(str, range(count))), numbers
    classes = tuple(sorted(set(map(str, given))))
    place = {name: index for index, name in enumerate(classes)}
    return classes, [place[str(label)] for label in given]


def explain_bad_name(name: str) -> str | None:
    """Return the reason why a file name cannot be stored or printed, or None if it can."""
    if not name:
        return "its name is empty"
    kinds = {unicodedata.category(letter) for letter in name}
    if "Cs" in kinds:
        return "its name is not UTF-8"
    if "Cc" in kinds:
        return "its name contains control characters"
    return None


def find_classes(names: Sequence[str]) -> tuple[tuple[str, ...], list[int] | None]:
    """Return the sorted class names, and the class index of each file; ((), None) if there are no classes.

    If all files are at the same depth, the class of a file is the name of its folder: train/rose/1.png and
    test/rose/2.png have class rose. If depths differ, or all these folders have the same name, the class is
    the first folder in which the paths differ. If a file lies beside the class folders, there are no classes.
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
