"""Read a vector of numbers for each image from a CSV file, match it with the image, and standardise it."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ddim.errors import UserError, suggest

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = ("name", "image", "file", "filename", "path")
"""The headings that mark a first column as the names of the images."""


class VectorTable(NamedTuple):
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

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the vectors as tensors, for a checkpoint."""
        import torch

        heads = np.array(list(json.dumps(self.columns).encode()), np.uint8)
        return {name: torch.from_numpy(value) for name, value in (vars(self) | {"columns": heads}).items()}

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
        OSError: if the file cannot be read.
        UserError: if the file holds no vectors, a cell is not a finite number, rows have
            different lengths, or two rows have the same name.
    """
    with Path(path).open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    if len(set(map(len, rows))) != 1:
        raise UserError(f"{path} must hold rows of one length, {len(rows)} rows have several lengths or none")
    table, first = np.array([[_to_float(cell) for cell in row] for row in rows]), rows[0]
    texts = np.isnan(table)
    headed = texts[0, 1:].any() or (texts[0, 0] and (len(first) == 1 or first[0].lower() in _NAMES))
    table, rows = table[int(headed) :], rows[int(headed) :]
    named = (headed and first[0].lower() in _NAMES) or np.isnan(table[:, 0]).any()
    numbers, columns = table[:, int(named) :], first[int(named) :]
    wrong = [row for row, values in zip(rows, numbers, strict=True) if not np.isfinite(values).all()]
    if wrong or not numbers.size:
        raise UserError(f"{path} must hold finite numbers for each image, got {wrong[:1]}")
    names = tuple(row[0] for row in rows) if named else None
    if names and len(set(names)) < len(names):
        raise UserError(f"{path} has two rows for the same name: give one row for each image")
    return VectorTable(tuple(columns if headed else map(str, range(len(columns)))), names, numbers)


def match_vectors(path: str | Path, names: Sequence[str], train: np.ndarray) -> ImageVectors:
    """Return the vector of each image in a CSV file, with the mean and deviation over the training images.

    The vector is found by the file name of the image, or by its position if the file has no names. A name in
    the file is the path of an image in the data, or the last part of this path if this part is unique.
    Positions count the sorted file names; in an array or a parquet file, they count its rows.

    Args:
        path: the file, see `read_vectors`.
        names: the names of the images, see `Images.names`.
        train: the indices of the training images.

    Raises:
        UserError: if an image has no row, a file without names has another number of rows, or a column has
            the same value for all training images. See `read_vectors` for other errors.
    """
    table = read_vectors(path)
    rows = table.rows
    if table.names is not None:
        known = {name: row for row, name in enumerate(table.names)}
        lasts = Counter(name.rpartition("/")[2] for name in names)
        unique = {last: known.get(last) for last, count in lasts.items() if count == 1}
        found = [known.get(name, unique.get(name.rpartition("/")[2])) for name in names]
        if None in found:
            lost = names[found.index(None)]
            raise UserError(f"{path} must have a row for the image {lost!r}{suggest(lost, table.names)}")
        rows = rows[np.array(found)]
    elif len(rows) != len(names):
        wanted = f"{path} must have a row for each of the {len(names):,} images, got {len(rows):,}"
        raise UserError(f"{wanted}: if images were rejected, put the names of the images into a first column")
    mean, deviation = rows[train].mean(0), rows[train].std(0)
    same = deviation <= 1e-9 * abs(mean)
    if same.any():
        column = table.columns[same.argmax()]
        raise UserError(f"column {column!r} of {path} is the same for all training images: remove it")
    return ImageVectors(table.columns, np.ascontiguousarray(rows), train, mean, deviation)


def _to_float(cell: str) -> float:
    """Return the number in a cell; NaN if it holds none."""
    try:
        return float(cell)
    except ValueError:
        return np.nan
