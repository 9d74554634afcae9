"""The run whose weights a new run starts from: load it, and check that the new run fits it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ddim.data import SplitImages, split_images
from ddim.errors import UserError
from ddim.runs.pipeline import LoadedRun, load
from ddim.runs.recipe import Recipe


def load_parent(source: Path | None) -> LoadedRun | None:
    """Return the run whose weights a new run starts from, loaded on the CPU; None if there is no such run."""
    return None if source is None else load(source, device="cpu")


def check_parent(parent: LoadedRun, recipe: Recipe, parts: SplitImages) -> None:
    """Check that a new run can start from the weights of another run.

    Args:
        parent: the other run.
        recipe: the recipe of the new run, with the numbers of classes and of numbers in a vector.
        parts: the images of the new run, with their labels and vectors.

    Raises:
        UserError: if the labels or vectors do not fit the network, or images on which `parent` was trained
            would be held out.
    """
    known, count = parent.model.classes, len(parts.images.classes)
    if recipe.data.labels and known != count:
        raise UserError(
            f"--from loads the weights of a network with {known} classes, but {recipe.data.source} has "
            f"{count}: train without labels (--data.labels no), or without --from"
        )
    if recipe.data.labels:
        _check_order(parent, parts)
    if recipe.data.vectors is not None and parent.model.vector != recipe.net.vector:
        raise UserError(
            f"--from loads the weights of a network with {parent.model.vector} numbers in its vectors, but "
            f"{recipe.data.vectors} has {recipe.net.vector}: train without --data.vectors, or without --from"
        )
    _check_held_out(parent, recipe, parts)


def _check_order(parent: LoadedRun, parts: SplitImages) -> None:
    """Check that a class which both runs have is the same class of the network."""
    places = {name: place for place, name in enumerate(parent.classes)}
    for place, name in enumerate(parts.images.classes):
        if places.get(name, place) != place:
            raise UserError(
                f"--from loads the weights of a network whose class {places[name]} is {name!r}, but in these "
                f"images it is class {place}: give images with the same classes, train without labels "
                "(--data.labels no), or without --from"
            )


def _check_held_out(parent: LoadedRun, recipe: Recipe, parts: SplitImages) -> None:
    """Check that no image on which `parent` was trained is held out, if both runs have the same images."""
    known, before = parent.checkpoint.state.images, parent.recipe
    if known is None or known.fingerprint != parts.images.fingerprint:
        return
    split = split_images(parts.images, before.data.validation, before.seed)
    if not np.isin(parts.validation, split.validation).all():
        raise UserError(
            "images on which the run of --from was trained would be held out, and their errors would be too "
            f"low: use its --seed {before.seed} and --data.validation {before.data.validation:g}, got seed "
            f"{recipe.seed} and data.validation {recipe.data.validation:g}"
        )
