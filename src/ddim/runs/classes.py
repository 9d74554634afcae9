"""Classes that a network is told: of the images that train it, and of the pictures that are asked of it."""

from __future__ import annotations

import math
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
"""The label of an image of no class in a batch of others: None for this image alone."""

Label: TypeAlias = int | Literal["all"] | None
"""Of pictures: a class, none, or "all", which gives the picture of seed s the class s % classes."""


# --- of the images that train a network ---------------------------------------------------------------------


def filled(recipe: Recipe, images: Images) -> Recipe:
    """The recipe whose network is told as many classes as the images have, where it is told of them at all.

    UserError where the images have no class folders, or others than the recipe says.
    """
    source = recipe.data.source
    if not recipe.data.labels:
        return recipe
    if images.labels is None:
        raise UserError(
            "data.labels needs images sorted into two class folders or more, and none beside these: "
            f"{source} is not so sorted"
        )
    count, asked = len(images.classes), recipe.net.classes
    if asked not in (0, count):
        raise UserError(
            f"net.classes must be {count}, the class folders of {source}, or left out, got {asked}; weights "
            "of a run with other classes can be trained further with --data.labels no"
        )
    return replace(recipe, net=replace(recipe.net, classes=count))  # type: ignore[call-arg]


def of_images(recipe: Recipe, images: Images, which: np.ndarray) -> Tensor | None:
    """(B,) the classes of a run's own images at these indices; None where its network is told of none."""
    if not recipe.data.labels or images.labels is None:
        return None
    return torch.from_numpy(images.labels[which])


def by_name(recipe: Recipe, classes: Sequence[str], images: Images, which: np.ndarray) -> Tensor | None:
    """(B,) the run's classes of any images, by the names of their folders; `NULL` where it has none such.

    None where its network is told of none.
    """
    if not recipe.data.labels:
        return None
    if images.labels is None:
        return torch.full((len(which),), NULL)
    places = [classes.index(name) if name in classes else NULL for name in images.classes]
    return torch.tensor(places)[torch.from_numpy(images.labels[which])]


def withheld(labels: Tensor, part: float, draw: torch.Generator) -> Tensor:
    """Labels (B,), each replaced by `NULL` with probability `part` (Ho & Salimans 2022, algorithm 1)."""
    return torch.where(torch.rand(len(labels), generator=draw, dtype=torch.float64) < part, NULL, labels)


# --- of pictures --------------------------------------------------------------------------------------------


def find(label: str | int | None, recipe: Recipe, classes: Sequence[str]) -> Label:
    """The label of text: a class of the run, by name or index, or "all". UserError suggests the near name."""
    if label is None or isinstance(label, int):
        return label
    if not recipe.data.labels:
        raise UserError(
            f"--label cannot be used: the network of this run is told of no labels, got {label!r}"
        )
    if label == "all":
        return "all"
    if label in classes:
        return classes.index(label)
    numbers = [str(index) for index in range(len(classes))]
    if label in numbers:
        return numbers.index(label)
    hint = suggest(label, classes)
    raise UserError(f"--label must be one of the run's {len(classes)} classes or all, got {label!r}{hint}")


def check(recipe: Recipe, label: Label, guidance: float = 1.0) -> None:
    """UserError where a run of this recipe cannot make such pictures."""
    if not 0 <= guidance < math.inf:
        raise UserError(f"guidance must be at least 0 and finite, got {guidance}")
    if not recipe.data.labels and (label is not None or guidance != 1):
        name, value, off = ("guidance", guidance, 1) if label is None else ("label", label, None)
        raise UserError(f"{name} must be {off}, since this run was trained without labels, got {value}")
    if label is None:
        check_null(recipe, "without a label sampling")
    elif label != "all" and label not in range(count := recipe.net.classes):
        raise UserError(f"label must be a class, 0 to {count - 1}, or all, or none, got {label!r}")
    if guidance != 1 and label is None:
        raise UserError(f"guidance needs a label, a class or all, towards which to guide, got {guidance}")
    if guidance != 1 and not recipe.data.unlabelled:
        raise UserError(
            "guidance must be 1, since this run was trained with data.unlabelled 0 and knows no images of no "
            f"class to guide away from, got {guidance}"
        )


def check_null(recipe: Recipe, what: str) -> None:
    """UserError where `what` would tell the network no class, and it has always been told one."""
    if recipe.data.labels and not recipe.data.unlabelled:
        raise UserError(
            f"{what} tells the network no class, and with data.unlabelled 0 this run was always told one"
        )


def in_turn(recipe: Recipe) -> Label:
    """The label of pictures that show a run as a whole: its classes in turn, where it was told of them."""
    return "all" if recipe.data.labels else None


def of_seeds(label: Label, seeds: Sequence[int], model: Model) -> Tensor | int | None:
    """What `Model.given` takes for pictures of these seeds."""
    return torch.tensor([seed % model.classes for seed in seeds]) if label == "all" else label


def guided(model: Model, label: Tensor | int | None, guidance: float) -> tuple[Denoiser, list[Counted]]:
    """The model told a label, and guided away from no class where `guidance` is not 1; and what counts it."""
    strong = Counted(model.given(label))
    if guidance == 1:
        return strong, [strong]
    weak = Counted(model)
    return Guided(strong, weak, guidance), [strong, weak]
