"""What a user asks for: the recipe of a new run."""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ddim.data.arrays import GivenImages, give_images, hold_images
from ddim.data.open import absolute_source, find_array_size
from ddim.machine.distributed import join_processes
from ddim.recipe.codec import dump, override
from ddim.recipe.named import RECIPES, change_recipe, find_recipe
from ddim.recipe.recipe import Recipe
from ddim.sampling.images import read_parent_recipe


def choose_recipe(
    recipe: str | Recipe | None, data: object, fields: Mapping[str, Any], source: str | Path | None = None
) -> Recipe:
    """Return the recipe of a new run.

    Args:
        recipe: see `train`.
        data: see `train`.
        fields: new values keyed by field path, as for `change_recipe`; None leaves a field as it is.
        source: see `train`.

    Raises:
        UserError: if the recipe, the images or a field cannot be used.
    """
    fields = {name: value for name, value in fields.items() if value is not None}
    data = fields.get("data.source") if data is None else data
    data = hold_images(data)
    if isinstance(recipe, Recipe):
        # A `Recipe` has a size for its images; only images that are given from Python keep their own size.
        return use_data(recipe, data, fields, keep_size=isinstance(data, GivenImages))
    name, size = "fast" if recipe is None else str(recipe), find_size(fields, data)
    if source is None:
        return use_data(find_recipe(name, size), data, fields)
    own_images = data is not None or name not in RECIPES
    parent = load_parent_recipe(source, own_images=own_images)
    # The weights fit only the network of their own recipe, so this recipe is the default.
    chosen = parent
    if recipe is not None:
        chosen = find_recipe(name, size if own_images else size or parent.data.size)
        images = chosen.data if own_images else replace(parent.data, flip=chosen.data.flip)
        chosen = replace(chosen, pixels=parent.pixels, data=images)
    return use_data(chosen, data, fields)


def load_parent_recipe(source: str | Path, *, own_images: bool) -> Recipe:
    """Return the recipe of a run for a new run from its weights, with a budget in minutes.

    Args:
        source: the run.
        own_images: see `read_parent_recipe`.
    """
    # The images are searched by the first process of each machine.
    with join_processes() as processes:
        read = partial(read_parent_recipe, source, own_images=own_images)
        return replace(processes.local_first(read), images=None)


def find_size(fields: Mapping[str, Any], data: str | Path | GivenImages | None) -> tuple[int, int] | None:
    """Return the (height, width) that a user gives, or else that of the given images; None if unknown.

    Args:
        fields: the fields of a recipe that the user gives; those of `data` are read.
        data: the source of the images: a path or name, `GivenImages`, or None.

    Raises:
        UserError: if a field cannot be used, or the given images or the file of arrays have no common size.
    """
    read = {name: value for name, value in fields.items() if name in ("data.size", "data.axis", "data.array")}
    asked = override(Recipe(), read).data
    if "data.size" in read:
        return asked.size
    if isinstance(data, GivenImages):
        return data.size
    return None if data is None else find_array_size(data, asked.reading)


def use_data(recipe: Recipe, data: object, fields: Mapping[str, Any], *, keep_size: bool = True) -> Recipe:
    """Return the recipe with the images and the fields that a user gives.

    Args:
        recipe: the recipe.
        data: see `train`.
        fields: see `change_recipe`.
        keep_size: whether arrays, in a file or given from Python, keep their size if `fields` has no size.

    Raises:
        UserError: if `data` is not a path, a name or images, or a field is invalid.
    """
    recipe, keep_size = change_recipe(recipe, fields), keep_size and "data.size" not in fields
    if data is None:
        return recipe
    if isinstance(data, str | Path):
        size = find_array_size(data, recipe.data.reading) if keep_size else None
        return replace(recipe, data=replace(recipe.data, source=str(data), size=size or recipe.data.size))
    given = give_images(data, recipe.data.values)
    free = "data.labels" not in fields and recipe.net.takes("classes")
    labels = recipe.data.labels or (free and given.labelled)
    size = given.size if keep_size else recipe.data.size
    return replace(recipe, data=replace(recipe.data, source=given.text, size=size, labels=labels))


def describe_request(recipe: Recipe) -> dict[str, Any]:
    """Return a requested recipe as run.json records it; the path of the images is absolute."""
    source = os.path.normpath(absolute_source(recipe.data.source))
    return dump(replace(recipe, data=replace(recipe.data, source=source)))
