"""The run whose weights a new run starts from: what the new run takes over, and whether it fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ddim.data import SplitImages, split_images
from ddim.data.clusters import Clusters, average_cells, group_images
from ddim.data.values import choose_channels
from ddim.data.vectors import match_vectors
from ddim.errors import UserError, warn_user
from ddim.machine.distributed import current_processes
from ddim.recipe.checks import find_other_meaning
from ddim.recipe.recipe import Recipe
from ddim.sampling.images import check_same_split, open_source
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


def label_clusters(recipe: Recipe, split: SplitImages, parent: LoadedRun | None) -> SplitImages:
    """Return the images with their clusters as classes, or `split` itself if the recipe has other labels.

    Process 0 finds the clusters, and all processes use them. If `parent` has clusters, the new run takes over
    their centres, because its network knows these classes.

    Raises:
        UserError: if there are too few images.
    """
    wanted, processes, clusters = recipe.data.labels, current_processes(), None
    if not isinstance(wanted, Clusters):
        return split
    if processes.leads:
        images, known = split.images, None if parent is None else parent.clusters
        cells = average_cells(images.pixels, images.values, np.arange(len(images)))
        if known is None:
            clusters = group_images(cells, split.train, wanted.count, recipe.data.flip, recipe.seed)
        else:
            clusters = known.assign(cells, split.train)
    return split.with_clusters(processes.broadcast(clusters))


def take_vectors(recipe: Recipe, split: SplitImages, parent: LoadedRun | None) -> SplitImages:
    """Return the images with the vectors of `data.vectors`, or `split` itself if the recipe has none.

    Process 0 reads the file, and all processes use its content. If `parent` has vectors of the same columns,
    the new run takes over their mean and deviation, because its network knows vectors that are scaled so.

    Raises:
        UserError: if the file cannot be read, or does not fit the images.
    """
    path, processes, vectors = recipe.data.vectors, current_processes(), None
    if path is None:
        return split
    if processes.leads:
        vectors = match_vectors(path, split.images.names, split.train)
        known = None if parent is None else parent.vectors
        if known is not None and known.columns == vectors.columns:
            vectors = replace(vectors, mean=known.mean, deviation=known.deviation)
    return split.with_vectors(processes.broadcast(vectors))


def check_parent(parent: LoadedRun, recipe: Recipe, parts: SplitImages) -> None:
    """Check that the classes keep their meaning, and that no image on which `parent` was trained is held out.

    Args:
        parent: the run whose weights the new run starts from.
        recipe: the recipe of the new run.
        parts: the images of the new run, with their labels.

    Raises:
        UserError: if a class of the network would become another class, or the errors on held-out images
            would be too low. Also if the images of `parent` are now split in another way.
    """
    before, data = parent.recipe, recipe.data
    if data.labels and before.data.labels:
        names = zip(parent.classes, parts.images.classes, strict=False)
        places = {name: place for place, name in enumerate(parent.classes)}
        moved = [new for old, new in names if old != new and new in places]
        if data.labels != before.data.labels or moved:
            raise UserError(
                f"the classes of --from, {', '.join(parent.classes)}, are not those of these images, "
                f"{', '.join(parts.images.classes)}: give images with the same classes in the same order, "
                "train without labels (--data.labels no), or without --from"
            )
    known = parent.checkpoint.state.images
    if len(parts.validation) and known is not None and _has_images_of(parent, recipe, parts):
        split = split_images(parts.images, before.data.validation, before.split_seed)
        check_same_split(split, known.train)
        if not np.isin(parts.validation, split.validation).all():
            raise UserError(
                "images on which the run of --from was trained would be held out, and their errors would be "
                f"too low: use at most its --data.validation {before.data.validation:g} and no other "
                f"--data.split_seed than {before.split_seed}, got data.validation {data.validation:g} "
                f"and data.split_seed {recipe.split_seed}"
            )


def _has_images_of(parent: LoadedRun, recipe: Recipe, parts: SplitImages) -> bool:
    """Return whether the images of a recipe, `parts`, are those of another run, perhaps at another size."""
    known = parent.checkpoint.state.images
    if known is None or known.fingerprint == parts.images.fingerprint:
        return known is not None
    data = replace(parent.recipe.data, channels=choose_channels(parent.checkpoint.state.channels))
    return open_source(recipe.data.source, data).fingerprint == known.fingerprint


def warn_of_other_meaning(parent: Recipe, recipe: Recipe) -> None:
    """Warn if a new run gives the weights of another run, `parent`, another meaning."""
    if other := find_other_meaning(parent, recipe):
        warn_user(
            f"the weights of --from were trained with another {other}, so they must learn a new task; "
            f"without --recipe and --{other}, the new run has the {other} of that run"
        )
