"""Read a vector of numbers for each image from a CSV file, match it with the image, and standardise it."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddim.data.images import Images, SplitImages
from ddim.errors import UserError, suggest

if TYPE_CHECKING:
    from torch import Tensor

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

    Each row holds the numbers of one image, after the name of the image if the file has names. The first row
    holds column names if one of its cells after the first is not a number. A first cell that is not a number
    has the same effect only if it is the only cell of the row, or "name", "image", "file", "filename" or
    "path". The first column holds the names of the images if its column name is one of these five words, or
    if one of its cells below the column names is not a number.

    Raises:
        UserError: if the file cannot be read or holds no vectors, a cell is not a finite number, rows have
            different lengths, or two rows have the same name.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"the vectors {str(path)!r} cannot be read: {error}") from None
    first = rows[0] if rows else []
    headed = bool(rows) and _holds_heads(first)
    body = rows[1:] if headed else rows
    named = (headed and first[0].lower() in _NAMES) or not all(_is_number(row[0]) for row in body)
    columns = first[named:] if headed else [str(k) for k in range(len(first) - named)]
    if not body or not columns:
        raise UserError(f"{path} holds no vectors: give a row of numbers for each image")
    for line, row in enumerate(body, 1):
        if len(row) != len(first) or not all(_is_number(cell, finite=True) for cell in row[named:]):
            wanted = f"must hold {len(columns)} finite numbers"
            raise UserError(f"row {line} of {path} {wanted}, got {', '.join(row)[:99]}")
    numbers = np.array([[float(cell) for cell in row[named:]] for row in body])
    names = tuple(row[0] for row in body) if named else None
    if names and len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise UserError(f"{path} has two rows for {twice!r}: give one row for each image")
    return VectorTable(tuple(columns), names, numbers)


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
    mean, deviation = rows[split.train].mean(0), rows[split.train].std(0)
    for column, spread, middle in zip(table.columns, deviation, mean, strict=True):
        if not spread > 1e-9 * abs(middle):
            raise UserError(
                f"data.vectors needs columns that differ between images, got {middle:g} for all training "
                f"images in column {column!r} of {source}: remove this column"
            )
    return ImageVectors(table.columns, np.ascontiguousarray(rows), split.train, mean, deviation)


def _find_rows(names: Sequence[str], images: Images, source: str | Path) -> list[int]:
    """Return the index of the row of each image."""
    known = {name: row for row, name in enumerate(names)}
    lasts = Counter(name.rsplit("/", 1)[-1] for name in images.names)
    rows = []
    for name in images.names:
        last = name.rsplit("/", 1)[-1]
        row = known.get(name, known.get(last) if lasts[last] == 1 else None)
        if row is None:
            missing = f"{name!r}{suggest(name, names)}"
            raise UserError(
                f"data.vectors must have a row for each image, and {source} has none for {missing}"
            )
        rows.append(row)
    return rows


def _holds_heads(row: Sequence[str]) -> bool:
    """Return whether the first row of a file holds the names of its columns."""
    if not all(map(_is_number, row[1:])):
        return True
    return not _is_number(row[0]) and (len(row) == 1 or row[0].lower() in _NAMES)


def _is_number(cell: str, finite: bool = False) -> bool:
    try:
        return math.isfinite(float(cell)) or not finite
    except ValueError:
        return False
