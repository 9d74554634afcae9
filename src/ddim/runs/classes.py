"""Class labels: those of the images that a network is trained on, and those of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ddim.data import Images
from ddim.diffusion.denoiser import Counted, Denoiser, Model
from ddim.diffusion.guidance import Guided
from ddim.errors import UserError, suggest
from ddim.runs.recipe import Recipe

NULL = -1
"""The label of one image without a class, in a batch where others have one."""

Label: TypeAlias = int | Literal["all"] | None
"""The label of samples: a class index, None for no class, or "all" for class s % classes at seed s."""


# --- of training images -------------------------------------------------------------------------------------


def count_classes(recipe: Recipe, images: Images) -> Recipe:
    """Return the recipe with `net.classes` set to the number of class folders, if the run uses labels.

    Raises:
        UserError: if the images have no class folders, or another number of them than the recipe says.
    """
    source = recipe.data.source
    if not recipe.data.labels:
        return recipe
    if images.labels is None:
        raise UserError(
            "data.labels needs images sorted into two class folders or more, and none beside these: "
            f"{source} is not so sorted"
        )
    count, given = len(images.classes), recipe.net.classes
    if given not in (0, count):
        raise UserError(
            f"net.classes must be {count}, the class folders of {source}, or left out, got {given}; weights "
            "of a run with other classes can be trained further with --data.labels no"
        )
    return replace(recipe, net=replace(recipe.net, classes=count))  # type: ignore[call-arg]


def label_images(recipe: Recipe, images: Images, which: np.ndarray) -> Tensor | None:
    """Return the classes (B,) of a run's own images at the indices `which`; None for a run without labels."""
    if not recipe.data.labels or images.labels is None:
        return None
    return torch.from_numpy(images.labels[which])


def label_by_folder_name(
    recipe: Recipe, classes: Sequence[str], images: Images, which: np.ndarray
) -> Tensor | None:
    """Return the run's classes (B,) of any images, matched by the names of their folders.

    Args:
        recipe: that of the run.
        classes: the class names of the run.
        images: images from anywhere.
        which: indices (B,) of some of them.

    Returns:
        Class indices, `NULL` for a folder that is no class of the run; None for a run without labels.
    """
    if not recipe.data.labels:
        return None
    if images.labels is None:
        return torch.full((len(which),), NULL)
    places = [classes.index(name) if name in classes else NULL for name in images.classes]
    return torch.tensor(places)[torch.from_numpy(images.labels[which])]


def drop_labels(labels: Tensor, probability: float, draw: torch.Generator) -> Tensor:
    """Replace each of the labels (B,) by `NULL` with this probability (Ho & Salimans 2022, algorithm 1)."""
    return torch.where(
        torch.rand(len(labels), generator=draw, dtype=torch.float64) < probability, NULL, labels
    )


# --- of samples ---------------------------------------------------------------------------------------------


def find_label(label: str | int | None, recipe: Recipe, classes: Sequence[str]) -> Label:
    """Return the label that text means: a class of the run by name, else by index, or "all".

    Raises:
        UserError: if the run was trained without labels or has no such class; suggests the nearest name.
    """
    if label is None or isinstance(label, int):
        return label
    if not recipe.data.labels:
        raise UserError(f"label cannot be used, since this run was trained without labels, got {label!r}")
    if label == "all":
        return "all"
    if label in classes:
        return classes.index(label)
    numbers = [str(index) for index in range(len(classes))]
    if label in numbers:
        return numbers.index(label)
    hint = suggest(label, classes)
    raise UserError(f"label must be one of the run's {len(classes)} classes or all, got {label!r}{hint}")


def choose_label(recipe: Recipe) -> Label:
    """Return the label of samples that show a run as a whole: its classes in turn, or None without labels."""
    return "all" if recipe.data.labels else None


def assign_labels(label: Label, seeds: Sequence[int], model: Model) -> Tensor | int | None:
    """Return the label of each seed, as `Model.given` takes it."""
    return torch.tensor([seed % model.classes for seed in seeds]) if label == "all" else label


def guide(model: Model, label: Tensor | int | None, guidance: float) -> tuple[Denoiser, list[Counted]]:
    """Return the model given a label, with classifier-free guidance unless it is 1, and its counters."""
    strong = Counted(model.with_labels(label))
    if guidance == 1:
        return strong, [strong]
    weak = Counted(model)
    return Guided(strong, weak, guidance), [strong, weak]
