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
    if len(set(map(len, rows))) != 1:
        raise UserError(f"{path} must hold rows of one length, {len(rows)} rows have several lengths or none")
    table, first = np.array([[_to_float(cell) for cell in row] for row in rows]), rows[0]
    texts = np.isnan(table)
    headed = texts[0, 1:].any() or (texts[0, 0] and (len(first) == 1 or first[0].lower() in _NAMES))
    table, rows = table[int(headed) :], rows[int(headed) :]
    named = (headed and first[0].lower() in _NAMES) or np.isnan(table[:, 0]).any()
    numbers, columns = table[:, int(named) :], first[int(named) :]
    if not numbers.size or not np.isfinite(numbers).all():
        wrong = [row for row, values in zip(rows, numbers, strict=True) if not np.isfinite(values).all()]
        raise UserError(
            f"{path} must hold finite numbers for each image, got {wrong[0] if wrong else 'none'}"
        )
    names = tuple(row[0] for row in rows) if named else None
    if names and len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise UserError(f"{path} has two rows for {twice!r}: give one row for each image")
    return VectorTable(tuple(columns if headed else map(str, range(len(columns)))), names, numbers)


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
            f"{source} must have a row for each of the {len(split.images):,} images, got {len(rows):,}: if "
            "some images were rejected, add a first column with the names of the images"
        )
    mean, deviation = rows[split.train].mean(0), rows[split.train].std(0)
    for column, same in zip(table.columns, deviation <= 1e-9 * abs(mean), strict=True):
        if same:
            raise UserError(f"column {column!r} of {source} is the same for all training images: remove it")
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
            raise UserError(f"{source} must have a row for the image {name!r}{suggest(name, names)}")
        rows.append(row)
    return rows


def _to_float(cell: str) -> float:
    """Return the number in a cell; NaN if it holds none."""
    try:
        return float(cell)
    except ValueError:
        return math.nan
