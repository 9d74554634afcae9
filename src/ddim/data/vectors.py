"""Read a vector of numbers for each image from a CSV file, match it with the image, and standardise it."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddim.data.images import Images, SplitImages
from ddim.errors import UserError, suggest
from ddim.files import measure_file

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_FILE = 2**28
"""The largest CSV file, in bytes."""

MOST_COLUMNS = 1024
"""The largest length of the vector of an image."""

MOST_ROWS = 2_000_000
"""The largest number of rows."""

_LONGEST_LINE = 2**16

_NAMES = ("name", "image", "file", "filename", "path")
"""The headings that mark a first column as the names of the images."""


@dataclass(frozen=True)
class VectorTable:
    """The content of a CSV file: the names of the columns, and the numbers.

    Attributes:
        columns: the column names of the numbers, or "0", "1", ... if the file has none.
        names: the name of the image of each row; None if the rows are in the order of the images.
        rows: the numbers, (N, d) float64.
    """

    columns: tuple[str, ...]
    names: tuple[str, ...] | None
    rows: np.ndarray


@dataclass(frozen=True, repr=False)
class ImageVectors:
    """The vectors of a set of images, and the mean and deviation that standardise these and other vectors.

    Attributes:
        columns: the name of each number.
        rows: the vector of each image, (N, d) float64, as it was given.
        train: indices (n,) of the training images.
        mean: the mean (d,) of the training images; with --from, of those of the run whose weights are used.
        deviation: the standard deviation (d,) of the same images.
    """

    columns: tuple[str, ...]
    rows: np.ndarray
    train: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray

    def __repr__(self) -> str:
        """Return one line: the columns and the number of images."""
        return f"ImageVectors({', '.join(self.columns)} of {len(self.rows):,} images)"

    @property
    def sha256(self) -> str:
        """The SHA-256 (hex) of the columns and of all rows."""
        return hashlib.sha256(json.dumps(self.columns).encode() + self.rows.tobytes()).hexdigest()

    def standardise(self, rows: np.ndarray) -> np.ndarray:
        """Return vectors (B, d) as float32, minus `mean` and divided by `deviation`."""
        return ((rows - self.mean) / self.deviation).astype(np.float32)

    def label(self, split: SplitImages) -> SplitImages:
        """Return `split` with the standardised vectors; its images must be those of `rows`."""
        images = replace(split.images, vectors=self.standardise(self.rows))
        return replace(split, images=images, vectors=self)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the vectors as tensors, for a checkpoint."""
        import torch

        heads = torch.tensor(list(json.dumps(self.columns).encode()), dtype=torch.uint8)
        numbers = {"rows": self.rows, "train": self.train, "mean": self.mean, "deviation": self.deviation}
        return {"columns": heads, **{name: torch.from_numpy(value) for name, value in numbers.items()}}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ImageVectors:
        """Return the vectors that `to_tensors` wrote."""
        heads = tuple(json.loads(bytes(tensors["columns"].tolist())))
        return cls(heads, *(tensors[name].numpy() for name in ("rows", "train", "mean", "deviation")))


def read_vectors(path: str | Path) -> VectorTable:
    """Return the vectors in a CSV file.

    Each row holds the numbers of one image, after the name of the image if the file has names.

    The first row holds the column names if a cell after its first cell is not a number. A first cell that is
    not a number has the same effect only if it is the only cell of the row, or "name", "image", "file",
    "filename" or "path". The first column holds the names of the images if its column name is one of these
    five words, or if one of its cells below the column names is not a number.

    Raises:
        UserError: if the file cannot be read, is too large or holds no vectors, a cell is not a finite
            number, rows have different lengths, or two rows have the same name.
    """
    heads, firsts, numbers = None, [], array("d")
    for row in _read_rows(Path(path)):
        if not firsts and heads is None and _holds_heads(row):
            heads = row
        else:
            firsts.append(row[0].strip())
            numbers.extend(_parse(cell, path, len(firsts)) for cell in row[1:])
    named = (heads is not None and heads[0].strip().lower() in _NAMES) or not all(map(_is_number, firsts))
    rows = np.array(numbers).reshape(len(firsts), -1) if numbers else np.zeros((len(firsts), 0))
    if not named:
        first = [_parse(cell, path, line) for line, cell in enumerate(firsts, 1)]
        rows = np.column_stack([np.array(first), rows])
    if not rows.size:
        raise UserError(f"{path} holds no vectors: give a row of numbers for each image")
    columns = [str(k) for k in range(rows.shape[1])] if heads is None else [h.strip() for h in heads[named:]]
    twice = next((name for name, count in Counter(firsts).items() if count > 1), None) if named else None
    if twice is not None:
        raise UserError(f"{path} has two rows for {twice!r}: give one row for each image")
    return VectorTable(tuple(columns), tuple(firsts) if named else None, rows)


def match_vectors(table: VectorTable, split: SplitImages, source: str | Path) -> ImageVectors:
    """Return the vector of each image, with the mean and deviation over the training images.

    The vector is found by the file name of the image, or by its position if the table has no names. A name in
    the table is the path of a file in the data, or the last part of this path if this part is unique.
    Positions count the sorted file names; in an array or a parquet file, they count its rows.

    Args:
        table: the vectors.
        split: the images.
        source: the name of the table, for messages.

    Raises:
        UserError: if an image has no row, a table without names has another number of rows, or a column has
            the same value for all training images.
    """
    rows = table.rows
    if table.names is not None:
        rows = rows[_find_rows(table.names, split.images, source)]
    elif len(rows) != len(split.images):
        raise UserError(
            f"data.vectors must have a row for each of the {len(split.images):,} images, got {len(rows):,} "
            f"rows in {source}: if some images were rejected, add a first column with the names of the images"
        )
    else:
        rows = rows[_find_positions(split.images)]
    mean, deviation = rows[split.train].mean(0), rows[split.train].std(0)
    for column, spread, middle in zip(table.columns, deviation, mean, strict=True):
        if not spread > 1e-9 * abs(middle):
            raise UserError(
                f"data.vectors needs columns that differ between images, got {middle:g} for all training "
                "images "
                f"in column {column!r} of {source}: remove this column"
            )
    return ImageVectors(table.columns, np.ascontiguousarray(rows), split.train, mean, deviation)


def _find_positions(images: Images) -> np.ndarray:
    """Return the position (N,) of each image in its source."""
    # Images of arrays are named by their number. A folder for the class may precede it and changes the order.
    lasts = [name.rsplit("/", 1)[-1] for name in images.names]
    if len(set(lasts)) < len(lasts) or not all(re.fullmatch("[0-9]{9}", last) for last in lasts):
        return np.arange(len(lasts))
    return np.argsort(np.argsort(lasts))


def _find_rows(names: Sequence[str], images: Images, source: str | Path) -> list[int]:
    """Return the index of the row of each image."""
    known = {name: row for row, name in enumerate(names)}
    lasts: dict[str, int] = {}
    for name in images.names:
        lasts[name.rsplit("/", 1)[-1]] = lasts.get(name.rsplit("/", 1)[-1], 0) + 1
    found = []
    for name in images.names:
        last = name.rsplit("/", 1)[-1]
        row = known.get(name)
        row = known.get(last) if row is None and lasts[last] == 1 else row
        if row is None:
            missing = f"{name!r}{suggest(name, names)}"
            raise UserError(
                f"data.vectors must have a row for each image, and {source} has none for {missing}"
            )
        found.append(row)
    return found


def _read_rows(path: Path) -> Iterator[list[str]]:
    """Yield the rows of a CSV file, which must have equal lengths; empty lines are left out."""
    length = count = 0
    try:
        for line in _read_lines(path):
            row = next(csv.reader([line], strict=True))
            if not row:
                continue
            length, count = length or len(row), count + 1
            if length > MOST_COLUMNS + 1:
                raise UserError(
                    f"{path} must have at most {MOST_COLUMNS} numbers for each image, got {length}"
                )
            if len(row) != length:
                raise UserError(
                    f"the rows of {path} must have equal lengths, got {length} cells in row 1 and {len(row)} "
                    f"in row {count}"
                )
            if count > MOST_ROWS:
                raise UserError(f"{path} must have at most {MOST_ROWS:,} rows")
            yield row
    except OSError as error:
        raise UserError(f"the vectors {str(path)!r} cannot be read: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a CSV file: {error}") from None


def _read_lines(path: Path) -> Iterator[str]:
    size = measure_file(path)
    if size > LARGEST_FILE:
        raise UserError(f"{path} is larger than {LARGEST_FILE >> 20} MiB, which is too large for vectors")
    if not size:
        return
    with path.open(newline="", encoding="utf-8-sig") as file:
        while line := file.readline(_LONGEST_LINE + 1):
            if len(line) > _LONGEST_LINE:
                raise UserError(f"{path} must have lines of at most {_LONGEST_LINE:,} letters")
            yield line


def _holds_heads(row: Sequence[str]) -> bool:
    """Return whether the first row of a file holds the names of its columns."""
    if not all(map(_is_number, row[1:])):
        return True
    return not _is_number(row[0]) and (len(row) == 1 or row[0].strip().lower() in _NAMES)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _parse(cell: str, path: str | Path, line: int) -> float:
    if not _is_number(cell) or not math.isfinite(float(cell)):
        shown = cell.strip()[:50]
        raise UserError(f"{path} must hold finite numbers, got {shown!r} in row {line} of its vectors")
    return float(cell)
