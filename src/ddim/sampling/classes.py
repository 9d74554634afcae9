"""Class labels of training images and of samples."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from operator import index
from typing import Literal, SupportsIndex, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ddim.data import Images
from ddim.data.arrays import PREFIX
from ddim.data.clusters import Clusters, ImageClusters, average_cells
from ddim.data.vectors import ImageVectors
from ddim.errors import UserError, suggest
from ddim.recipe.recipe import Recipe
from ddim.sampling.vector_labels import VectorLabel, draw_rows_of_training, spread_evenly

NULL = -1
"""The label of an image without a class, in a batch of labels."""

Label: TypeAlias = int | Literal["all", "natural"] | VectorLabel | None
"""The label of samples: a class index, None for no class, "all", "natural" or vectors.

With "all", the classes take turns: the sample of seed s has class s % classes. With "natural", the classes
are as frequent as among the training images; see `draw_class`. If the run was trained with vectors, "natural"
draws vectors of training images.
"""


# Labels of training images


def count_classes(recipe: Recipe, images: Images) -> Recipe:
    """Return the recipe with `net.classes` set to the number of classes of `images`.

    The classes are class folders, the labels given with the images, or clusters (see `ddim.data.clusters`).
    If the run uses no labels, the recipe is returned unchanged.

    Raises:
        UserError: if the run uses labels and the images have none. Also if `net.classes` is set to another
            number.
    """
    source = recipe.data.source
    if not recipe.data.labels:
        return recipe
    kind = "clusters" if isinstance(recipe.data.labels, Clusters) else "class folders"
    if images.labels is None:
        if source.startswith(PREFIX):
            raise UserError(
                "data.labels needs a label for each image: give pairs (image, label), such as "
                'TensorDataset(images, labels), or labels="clusters:16" for 16 classes of similar images'
            )
        raise UserError(
            "data.labels needs images in two class folders or more, and no image outside these: "
            f"{source} is not sorted like this; --data.labels clusters:16 finds 16 classes of similar images"
        )
    count, given = len(images.classes), recipe.net.classes
    if given not in (0, count):
        raise UserError(
            f"net.classes must be {count}, the number of {kind} of {source}, or left out, got {given}"
            "; weights of a run with other classes can be trained further with --data.labels no"
        )
    if given == count:
        return recipe
    return replace(recipe, net=replace(recipe.net, classes=count))  # type: ignore[call-arg]


def count_images(clusters: ImageClusters | None) -> tuple[int, ...]:
    """Return the number of training images of each cluster; () if there are no clusters."""
    return () if clusters is None else tuple(clusters.counts.tolist())


def label_images(recipe: Recipe, images: Images, which: np.ndarray) -> Tensor | None:
    """Return the class labels (B,) or vectors (B, d) of the images at indices `which`.

    Return None for a run with neither labels nor vectors.
    """
    if images.vectors is not None and recipe.data.vectors is not None:
        return torch.from_numpy(images.vectors[which])
    if not recipe.data.labels or images.labels is None:
        return None
    return torch.from_numpy(images.labels[which])


def label_any_images(
    recipe: Recipe,
    classes: Sequence[str],
    images: Images,
    which: np.ndarray,
    clusters: ImageClusters | None = None,
) -> Tensor | None:
    """Return the class labels (B,) or vectors (B, d) of images that a run was not trained on.

    The class of an image is the class with the name of its folder. If the classes are clusters, its class is
    the nearest cluster.

    Args:
        recipe: the recipe of the run.
        classes: the class names of the run.
        images: any images.
        which: indices (B,) of the images to label.
        clusters: the clusters of the run, if its labels are clusters.

    Returns:
        Class indices. An image gets `NULL` if it has no class folder, or if its folder is not a class of the
        run. For a run with vectors: the vectors of the images, or NaN if the images have none. None for a run
        with neither labels nor vectors.
    """
    if recipe.data.vectors is not None:
        none = torch.full((len(which), recipe.net.vector), torch.nan)
        return none if images.vectors is None else torch.from_numpy(images.vectors[which])
    if not recipe.data.labels:
        return None
    if clusters is not None and images.classes != clusters.names:
        labels, _ = clusters.find_labels(average_cells(images.pixels, images.values, which))
        return torch.from_numpy(labels)
    if images.labels is None:
        return torch.full((len(which),), NULL)
    places = [classes.index(name) if name in classes else NULL for name in images.classes]
    return torch.tensor(places)[torch.from_numpy(images.labels[which])]


def drop_labels(labels: Tensor, probability: float, draw: torch.Generator) -> Tensor:
    """Return the labels after replacing a random part of them (Ho & Salimans 2022, algorithm 1).

    Args:
        labels: class labels (B,), which are replaced by `NULL`, or vectors (B, d), which are replaced by NaN.
        probability: the probability with which each label is replaced, independently of the others.
        draw: the generator of the random numbers.
    """
    dropped = torch.rand(len(labels), generator=draw, dtype=torch.float64) < probability
    if labels.is_floating_point():
        return torch.where(dropped[:, None], torch.nan, labels)
    return torch.where(dropped, NULL, labels)


# Labels of samples


def find_label(label: str | int | None, recipe: Recipe, classes: Sequence[str]) -> Label:
    """Convert what a user gives (a class name or index, a special word, or None) to a `Label`.

    Args:
        label: a class name, a class index as a number or as text, "all" for all classes in turn, "natural"
            for classes at their frequency in training, or "none" for no class. None means "natural" if the
            labels are clusters or the run was trained with vectors, and otherwise no class.
        recipe: the recipe of the run.
        classes: the class names of the run.

    Raises:
        UserError: if the run has no class of this name; the message suggests the nearest name. Also if the
            label is text and the run was trained without labels, or the label is neither text nor a whole
            number. A run with vectors takes only None, "natural" and "none".
    """
    if label is None:
        return default_label(recipe)
    if recipe.data.vectors is not None:
        return _find_word(label, "left out, since this run was trained with vectors: give vector (--vector)")
    if isinstance(label, SupportsIndex) and not isinstance(label, bool):
        return index(label)
    if not isinstance(label, str):
        raise UserError(f'label must be a class name, a class index, "all" or None, got {label!r}')
    if not recipe.data.labels:
        raise UserError(f"label must be left out, since this run was trained without labels, got {label!r}")
    if label == "all":
        return "all"
    known = [*classes, *map(str, range(len(classes)))]
    if label in known:
        return known.index(label) % len(classes)
    return _find_word(label, f'one of the run\'s {len(classes)} classes or "all"', classes)


def _find_word(label: str | int, wanted: str, classes: Sequence[str] = ()) -> Label:
    """Return the label that a word stands for; else the error says what is `wanted`."""
    if label in ("natural", "none"):
        return "natural" if label == "natural" else None
    raise UserError(f"label must be {wanted}, got {label!r}{suggest(str(label), classes)}")


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


def assign_labels(
    label: Label,
    seeds: Sequence[int],
    classes: int,
    counts: Sequence[int],
    vectors: ImageVectors | None = None,
) -> Tensor | int | None:
    """Return the class labels or vectors of samples with these seeds, for `Model.with_labels`.

    Args:
        label: the label of the samples.
        seeds: the seed of each sample.
        classes: number of classes.
        counts: number of training images of each class, for the label "natural".
        vectors: the vectors of all images, if the run was trained with vectors.

    Raises:
        UserError: if the label is vectors, and the run was trained without vectors.
    """
    if vectors is not None and label is not None:
        return (
            label.assign(seeds, vectors)
            if isinstance(label, VectorLabel)
            else draw_rows_of_training(seeds, vectors)
        )
    if isinstance(label, VectorLabel):
        raise UserError("vector must be left out, since this model has no vectors")
    if label == "natural":
        return torch.tensor([draw_class(seed, counts) for seed in seeds])
    return torch.tensor([seed % classes for seed in seeds]) if label == "all" else label


def draw_class(seed: int, counts: Sequence[int]) -> int:
    """Return the class of the sample with this seed, so that classes are about as frequent as in `counts`.

    The classes of consecutive seeds are nearer to `counts` than random classes, see `spread_evenly`.

    Args:
        seed: the seed of the sample.
        counts: number of training images of each class.
    """
    return bisect_right(list(accumulate(counts)), spread_evenly(seed, sum(counts)))
