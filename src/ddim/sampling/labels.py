"""Labels: the class or the vector of each training image, and those on which samples are conditioned."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import index
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ddim.data import Images
from ddim.data.clusters import Clusters
from ddim.data.vectors import ImageVectors, read_vectors
from ddim.errors import UserError, suggest, to_int
from ddim.recipe.recipe import Recipe

NULL = -1
"""The label of an image without a class, in a batch of labels."""

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
        keyed = {str(seed): list(row) for seed, row in zip(self.seeds, self.rows, strict=False)}
        return keyed or list(self.rows[0])


Label: TypeAlias = int | Literal["all", "natural"] | VectorLabel | None
"""The label of samples: a class index, None for no class, "all", "natural" or vectors.

With "all", the classes take turns: the sample of seed s has class s % classes. With "natural", the classes
are as frequent as among the training images; see `draw_class`. If the run was trained with vectors, "natural"
draws vectors of training images.
"""


# Labels of training images


def count_classes(recipe: Recipe, images: Images) -> Recipe:
    """Return the recipe with `net.classes` set to the number of classes of `images`, if it uses labels.

    The classes are class folders, the labels given with the images, or clusters (see `ddim.data.clusters`).

    Raises:
        UserError: if the images have no labels, or `net.classes` is set to another number.
    """
    if not recipe.data.labels:
        return recipe
    if images.labels is None:
        advice = "put all into class folders, none beside them, or give pairs (image, label) or clusters:16"
        raise UserError(f"data.labels needs a label for each image: {advice}")
    return _set_count(recipe, "classes", len(images.classes))


def count_vectors(recipe: Recipe, vectors: ImageVectors | None) -> Recipe:
    """Return the recipe with `net.vector` set to the length of its vectors, if the run uses vectors.

    Raises:
        UserError: if `net.vector` is set to another number.
    """
    return recipe if vectors is None else _set_count(recipe, "vector", len(vectors.columns))


def _set_count(recipe: Recipe, field: str, count: int) -> Recipe:
    given = getattr(recipe.net, field)
    if given not in (0, count):
        raise UserError(f"net.{field} must be {count} for these images, or left out, got {given}")
    # A network that the user wrote has this number already, and is no dataclass.
    return recipe if given == count else replace(recipe, net=replace(recipe.net, **{field: count}))  # type: ignore[call-arg]


def label_images(recipe: Recipe, images: Images, which: np.ndarray) -> Tensor | None:
    """Return the class labels (B,) or vectors (B, d) of the images at indices `which`.

    Return None for a run with neither labels nor vectors.
    """
    if images.vectors is not None and recipe.data.vectors is not None:
        return torch.from_numpy(images.vectors[which])
    if not recipe.data.labels or images.labels is None:
        return None
    return torch.from_numpy(images.labels[which])


def drop_labels(labels: Tensor, probability: float, draw: torch.Generator) -> Tensor:
    """Return the labels after replacing a random part of them (Ho & Salimans 2022, algorithm 1).

    Args:
        labels: class labels (B,), which are replaced by `NULL`, or vectors (B, d), which are replaced by NaN.
        probability: the probability with which each label is replaced, independently of the others.
        draw: the generator of the random numbers.
    """
    dropped = torch.rand(len(labels), generator=draw, dtype=torch.float64, device="cpu") < probability
    if labels.is_floating_point():
        return torch.where(dropped[:, None], torch.nan, labels)
    return torch.where(dropped, NULL, labels)


# Labels of samples


def find_label(label: str | int | None, recipe: Recipe, classes: Sequence[str]) -> Label:
    """Return the label of samples for what a user gives: a class name or index, a word, or None.

    Args:
        label: a class name, a class index as a number or as text, "all" for all classes in turn, "natural"
            for classes or vectors as frequent as in training, "none" for no class, or None for
            `default_label`.
        recipe: the recipe of the run.
        classes: the class names of the run.

    Raises:
        UserError: if the run has no such label; the message suggests the nearest name. Also if the samples
            have no label, and the network never trained without one.
    """
    data, default = recipe.data, default_label(recipe)
    count = len(classes) or recipe.net.classes
    known: dict[str | int | None, Label] = {None: default, "none": None}
    if default is not None:
        known["natural"] = default
    if data.labels:
        # A class name may be a number or a word: names come before indices, and "all" before names.
        known |= {str(k): k for k in range(count)} | {k: k for k in range(count)}
        known |= {name: k for k, name in enumerate(classes)} | {"all": "all"}
    asked = label if isinstance(label, str | None) else to_int("label", label)
    if asked not in known:
        allowed = "left out, since this run was trained without labels"
        if data.labels:
            allowed = f'one of the run\'s {count} classes or "all"'
        raise UserError(f"label must be {allowed}, got {label!r}{suggest(str(label), classes)}")
    if known[asked] is None and not data.unconditional:
        raise UserError("samples need a label: this run was trained with data.unlabelled 0")
    return known[asked]


def default_label(recipe: Recipe) -> Label:
    """Return the label of samples if the user gives none: "natural" for clusters and vectors, else None."""
    known = isinstance(recipe.data.labels, Clusters) or recipe.data.vectors is not None
    return "natural" if known else None


def choose_label(recipe: Recipe) -> Label:
    """Return the label for samples of all classes; None for a run with neither labels nor vectors.

    For clusters and vectors, the label is "natural": they are as frequent as in training. For other classes,
    it is "all": the classes take turns.
    """
    return default_label(recipe) or ("all" if recipe.data.labels else None)


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
        raise UserError("vector needs a run that was trained with vectors")
    count = len(vectors.columns)
    if isinstance(given, str | Path):
        rows = _read_table(given, vectors)
    else:
        rows = torch.as_tensor(given, dtype=torch.float64).cpu().numpy()
    if rows.shape not in ((count,), (len(seeds), count)) or not np.isfinite(rows).all():
        need = ", ".join(vectors.columns[:10])
        raise UserError(f"vector must hold {count} finite numbers ({need}), or a row each, got {rows.shape}")
    if rows.ndim == 1:
        return VectorLabel((tuple(rows.tolist()),))
    if len(set(seeds)) < len(seeds):
        raise UserError("if each sample has its own vector, all seeds must be different, got one seed twice")
    return VectorLabel(tuple(map(tuple, rows.tolist())), tuple(seeds))


def _read_table(path: str | Path, vectors: ImageVectors) -> np.ndarray:
    """Return the rows of a CSV file, with the columns in the order of `vectors`.

    Raises:
        UserError: if the file and the run have column names, and these differ.
    """
    table = read_vectors(path)
    # Columns without names are called "0", "1", ...
    if "0" in (table.columns[0], vectors.columns[0]):
        return table.rows
    if sorted(table.columns) != sorted(vectors.columns):
        raise UserError(f"{path} must have the columns of this run, {vectors.columns}, got {table.columns}")
    return table.rows[:, [table.columns.index(name) for name in vectors.columns]]


def draw_class(seed: int, counts: Sequence[int]) -> int:
    """Return the class of the sample with this seed, so that classes are about as frequent as in `counts`.

    The classes of consecutive seeds are nearer to `counts` than random classes, see `spread_evenly`.

    Args:
        seed: the seed of the sample.
        counts: number of training images of each class.
    """
    return bisect_right(list(accumulate(counts)), spread_evenly(seed, sum(counts)))


def draw_vectors(seeds: Sequence[int], vectors: ImageVectors) -> Tensor:
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
