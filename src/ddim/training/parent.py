"""The run whose weights a new run starts from: load it, and check that the new run fits it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ddim.data import SplitImages, split_images
from ddim.data.values import choose_channels
from ddim.errors import UserError, warn_user
from ddim.recipe.checks import find_other_meaning
from ddim.recipe.recipe import Recipe
from ddim.sampling.images import check_same_split, fingerprint_source
from ddim.sampling.pipeline import LoadedRun, load


def load_parent(source: Path | None) -> LoadedRun | None:
    """Return the run whose weights a new run starts from, loaded on the CPU; None if there is no such run."""
    return None if source is None else load(source, device="cpu")


def hold_out_alike(recipe: Recipe, parent: Recipe) -> Recipe:
    """Return a recipe that holds out the images which `parent` holds out, whatever its own seed is.

    A `data.split_seed` that the user gives is kept.
    """
    if recipe.data.split_seed is not None or recipe.seed == parent.split_seed:
        return recipe
    return replace(recipe, data=replace(recipe.data, split_seed=parent.split_seed))


def check_parent(parent: LoadedRun, recipe: Recipe, parts: SplitImages) -> None:
    """Check that a new run can start from the weights of another run.

    Args:
        parent: the other run.
        recipe: the recipe of the new run.
        parts: the images of the new run, with their labels and vectors.

    Raises:
        UserError: if the labels or vectors do not fit the network, or images on which `parent` was trained
            would be held out. Also if the images of `parent` are now split in another way.
    """
    known, count = parent.model.classes, len(parts.images.classes)
    if recipe.data.labels and known != count:
        raise UserError(
            f"--from loads the weights of a network with {known} classes, but {recipe.data.source} has "
            f"{count}: train without labels (--data.labels no), or without --from"
        )
    if recipe.data.labels:
        _check_order(parent, parts)
    length = 0 if parts.vectors is None else len(parts.vectors.columns)
    if recipe.data.vectors is not None and parent.model.vector != length:
        raise UserError(
            f"--from loads the weights of a network with {parent.model.vector} numbers in its vectors, but "
            f"{recipe.data.vectors} has {length}: train without --data.vectors, or without --from"
        )
    _check_held_out(parent, recipe, parts)


def warn_of_other_meaning(parent: Recipe, recipe: Recipe) -> None:
    """Warn if a new run gives the weights of another run, `parent`, another meaning."""
    if other := find_other_meaning(parent, recipe):
        warn_user(
            f"the weights of --from were trained with another {other}, so they must learn a new task; "
            f"without --recipe and --{other}, the new run has the {other} of that run"
        )


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
    before, known = parent.recipe, parent.checkpoint.state.images
    if len(parts.validation) and known is not None and _has_images_of(parent, recipe, parts):
        split = split_images(parts.images, before.data.validation, before.split_seed)
        check_same_split(split, known.train)
        if not np.isin(parts.validation, split.validation).all():
            raise UserError(
                "images on which the run of --from was trained would be held out, and their errors would be "
                f"too low: use at most its --data.validation {before.data.validation:g} and no other "
                f"--data.split_seed than {before.split_seed}, got data.validation {recipe.data.validation:g} "
                f"and data.split_seed {recipe.split_seed}"
            )


def _has_images_of(parent: LoadedRun, recipe: Recipe, parts: SplitImages) -> bool:
    """Return whether the images of a recipe, `parts`, are those of another run, perhaps at another size."""
    known, data = parent.checkpoint.state.images, parent.recipe.data
    if known is None or known.fingerprint == parts.images.fingerprint:
        return known is not None
    data = replace(data, channels=choose_channels(parent.checkpoint.state.channels))
    return fingerprint_source(recipe.data.source, data) == known.fingerprint
