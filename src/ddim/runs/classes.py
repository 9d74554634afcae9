"""Class labels of training images and of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import index
from typing import Literal, SupportsIndex, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ddim.data import Images
from ddim.data.given import PAIRS, PREFIX
from ddim.diffusion.denoiser import Model
from ddim.errors import UserError, suggest
from ddim.runs.recipe import Recipe

NULL = -1
"""The label of an image without a class, in a batch of labels."""

Label: TypeAlias = int | Literal["all"] | None
"""The label of samples: a class index, None for no class, or "all" for all classes in turn.

With "all", the sample of seed s has class s % classes.
"""


# Labels of training images


def count_classes(recipe: Recipe, images: Images) -> Recipe:
    """Return the recipe with `net.classes` set to the number of class folders, if the run uses labels.

    Raises:
        UserError: if the run uses labels, but the images have no class folders, or `net.classes` is set to a
            number other than the number of class folders.
    """
    source = recipe.data.source
    if not recipe.data.labels:
        return recipe
    if images.labels is None:
        if source.startswith(PREFIX):
            raise UserError(f"data.labels needs a label for each image: {PAIRS}")
        raise UserError(
            "data.labels needs images in two class folders or more, and no image outside these: "
            f"{source} is not sorted like this"
        )
    count, given = len(images.classes), recipe.net.classes
    if given not in (0, count):
        raise UserError(
            f"net.classes must be {count}, the number of class folders of {source}, or left out, got {given}"
            "; weights of a run with other classes can be trained further with --data.labels no"
        )
    if given == count:
        return recipe
    return replace(recipe, net=replace(recipe.net, classes=count))  # type: ignore[call-arg]


def label_images(recipe: Recipe, images: Images, which: np.ndarray) -> Tensor | None:
    """Return class labels (B,) of training images, at the indices `which`; None for a run without labels."""
    if not recipe.data.labels or images.labels is None:
        return None
    return torch.from_numpy(images.labels[which])


def label_by_folder_name(
    recipe: Recipe, classes: Sequence[str], images: Images, which: np.ndarray
) -> Tensor | None:
    """Return class labels (B,) of images that a run was not trained on, found by their folder names.

    Args:
        recipe: the recipe of the run.
        classes: the class names of the run.
        images: any images.
        which: indices (B,) of the images to label.

    Returns:
        Class indices, with `NULL` where a folder is not a class of the run; None for a run without labels.
    """
    if not recipe.data.labels:
        return None
    if images.labels is None:
        return torch.full((len(which),), NULL)
    places = [classes.index(name) if name in classes else NULL for name in images.classes]
    return torch.tensor(places)[torch.from_numpy(images.labels[which])]


def drop_labels(labels: Tensor, probability: float, draw: torch.Generator) -> Tensor:
    """Return class labels (B,), of which some are replaced by `NULL` (Ho & Salimans 2022, algorithm 1).

    Args:
        labels: class labels (B,).
        probability: the probability with which each label is replaced, independently of the others.
        draw: the generator of the random numbers.
    """
    return torch.where(
        torch.rand(len(labels), generator=draw, dtype=torch.float64) < probability, NULL, labels
    )


# Labels of samples


def find_label(label: str | int | None, recipe: Recipe, classes: Sequence[str]) -> Label:
    """Return the label that a user gives as a class index, "all" or None.

    Args:
        label: a class name, a class index as a number or as text, "all" for all classes in turn, or None for
            no class.
        recipe: the recipe of the run.
        classes: the class names of the run.

    Raises:
        UserError: if the label is text, and the run was trained without labels or has no such class; the
            message suggests the nearest name. Also if the label is neither text nor a whole number.
    """
    if label is None:
        return None
    if isinstance(label, SupportsIndex) and not isinstance(label, bool):
        return index(label)
    if not isinstance(label, str):
        raise UserError(f'label must be a class name, a class index, "all" or None, got {label!r}')
    if not recipe.data.labels:
        raise UserError(f"label must be left out, since this run was trained without labels, got {label!r}")
    if label == "all":
        return "all"
    if label in classes:
        return classes.index(label)
    numbers = [str(index) for index in range(len(classes))]
    if label in numbers:
        return numbers.index(label)
    hint = suggest(label, classes)
    raise UserError(f'label must be one of the run\'s {len(classes)} classes or "all", got {label!r}{hint}')


def choose_label(recipe: Recipe) -> Label:
    """Return the label for samples of all classes in turn: "all", or None for a run without labels."""
    return "all" if recipe.data.labels else None


def assign_labels(label: Label, seeds: Sequence[int], model: Model) -> Tensor | int | None:
    """Return the class labels of samples with these seeds, as `Model.with_labels` takes them."""
    return torch.tensor([seed % model.classes for seed in seeds]) if label == "all" else label
