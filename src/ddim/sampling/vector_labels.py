"""Vectors on which samples are conditioned, in the place of a class label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ddim.data.vectors import ImageVectors, read_vectors
from ddim.errors import UserError

if TYPE_CHECKING:
    from ddim.recipe.recipe import Recipe


GivenVectors: TypeAlias = Sequence[float] | Sequence[Sequence[float]] | np.ndarray | Tensor | str | Path
"""Vectors as a user gives them: (d,), (n, d), or the path of a CSV file."""


@dataclass(frozen=True)
class VectorLabel:
    """The vectors of samples, as the user gives them: one for all samples, or one for each seed.

    Attributes:
        rows: the vectors, not standardised.
        seeds: the seed of each row; () if there is one row for all seeds.
    """

    rows: tuple[tuple[float, ...], ...]
    seeds: tuple[int, ...] = ()

    def assign(self, seeds: Sequence[int], vectors: ImageVectors) -> Tensor:
        """Return the standardised vectors (B, d) of samples; a seed without a row gets the first row."""
        place = {seed: row for row, seed in enumerate(self.seeds)}
        rows = np.array([self.rows[place.get(seed, 0)] for seed in seeds], np.float64)
        return torch.from_numpy(vectors.standardise(rows))

    def to_json(self) -> list[float] | dict[str, list[float]]:
        """Return the vector, or the vectors keyed by seed, as JSON."""
        if not self.seeds:
            return list(self.rows[0])
        return {str(seed): list(row) for seed, row in zip(self.seeds, self.rows, strict=True)}


def count_vectors(recipe: Recipe, vectors: ImageVectors | None) -> Recipe:
    """Return the recipe with `net.vector` set to the length of its vectors, if the run uses vectors.

    Raises:
        UserError: if `net.vector` is set to another number.
    """
    if vectors is None:
        return recipe
    count, given = len(vectors.columns), recipe.net.vector
    if given not in (0, count):
        raise UserError(
            f"net.vector must be {count}, the numbers in each row of {recipe.data.vectors}, or left out, "
            f"got {given}"
        )
    # A network that the user wrote has this number already, and is no dataclass.
    if given == count:
        return recipe
    return replace(recipe, net=replace(recipe.net, vector=count))  # type: ignore[call-arg]


def draw_rows_of_training(seeds: Sequence[int], vectors: ImageVectors) -> Tensor:
    """Return the standardised vectors (B, d) of evenly drawn training images, one image for each seed.

    See `spread_evenly` for the order in which the images are drawn.
    """
    which = [vectors.train[spread_evenly(seed, len(vectors.train))] for seed in seeds]
    return torch.from_numpy(vectors.standardise(vectors.rows[which]))


def spread_evenly(seed: int, n: int) -> int:
    """Return a number from 0 to n - 1 for a seed, so that the numbers of consecutive seeds are spread evenly.

    The multiples of the golden ratio, taken modulo 1, fill the unit interval evenly (Knuth 1998, vol. 3,
    section 6.4).
    """
    # The first factor is 2^64 divided by the golden ratio. The integers of NumPy and torch would overflow.
    return (0x9E3779B97F4A7C15 * index(seed) % 2**64) * n >> 64


def find_vectors(given: GivenVectors, seeds: Sequence[int], vectors: ImageVectors | None) -> VectorLabel:
    """Return the vectors of samples that a user gives.

    Args:
        given: d numbers for all samples, or (n, d) numbers with a row for each of the n seeds; a list, array
            or tensor. Or the path of a CSV file with a row for each seed.
        seeds: the seeds of the samples.
        vectors: the vectors of the run; None if it was trained without vectors.

    Raises:
        UserError: if the run was trained without vectors, or the numbers do not fit the run or the seeds.
    """
    if vectors is None:
        raise UserError("vector must be left out, since this run was trained without vectors")
    columns = ", ".join(vectors.columns[:10])
    if isinstance(given, str | Path):
        given = _read_table(given, vectors)
    if isinstance(given, Tensor):
        given = given.detach().cpu().numpy()
    try:
        rows = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise UserError(
            f"vector must hold {len(vectors.columns)} numbers ({columns}), got {given!r}"
        ) from None
    if rows.ndim not in (1, 2) or rows.shape[-1] != len(vectors.columns):
        raise UserError(
            f"vector must hold {len(vectors.columns)} numbers ({columns}), got {_describe_shape(rows)}"
        )
    if not np.isfinite(rows).all():
        raise UserError(f"vector must hold finite numbers, got {rows[~np.isfinite(rows)][0]}")
    if rows.ndim == 1:
        return VectorLabel((tuple(rows.tolist()),))
    if len(rows) != len(seeds):
        raise UserError(f"vectors must have a row for each of the {len(seeds)} samples, got {len(rows)} rows")
    if len(set(seeds)) < len(seeds):
        raise UserError("if each sample has its own vector, all seeds must be different, got one seed twice")
    return VectorLabel(tuple(tuple(row) for row in rows.tolist()), tuple(seeds))


def _describe_shape(rows: np.ndarray) -> str:
    return f"{rows.size} numbers" if rows.ndim == 1 else f"an array {rows.shape}"


def _read_table(path: str | Path, vectors: ImageVectors) -> np.ndarray:
    """Return the rows of a CSV file, with the columns in the order of `vectors`.

    Raises:
        UserError: if the file and the run have column names, and these differ.
    """
    table = read_vectors(path)
    if tuple(map(str, range(table.rows.shape[1]))) == table.columns or vectors.columns[0] == "0":
        return table.rows
    if sorted(table.columns) != sorted(vectors.columns):
        wanted, got = (", ".join(each.columns[:10]) for each in (vectors, table))
        raise UserError(f"{path} must have the columns of this run, {wanted}, got {got}: rename its columns")
    return table.rows[:, [table.columns.index(name) for name in vectors.columns]]
