"""Find the labels of a new run whose recipe asks for clusters of its training images, or for vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ddim.data import SplitImages
from ddim.data.clusters import Clusters, average_cells, group_images
from ddim.data.vectors import match_vectors
from ddim.errors import UserError
from ddim.machine.distributed import current_processes
from ddim.recipe.recipe import Recipe
from ddim.sampling.pipeline import LoadedRun


def label_clusters(recipe: Recipe, split: SplitImages, parent: LoadedRun | None) -> SplitImages:
    """Return the images with their clusters as classes, or `split` itself if the recipe has other labels.

    Process 0 finds the clusters, and all processes use them. If `parent` has clusters, the new run takes over
    their centres, because its network knows these classes.

    Args:
        recipe: the recipe of the new run.
        split: its images.
        parent: the run whose weights the new run starts from, if there is one.

    Raises:
        UserError: if there are too few images, or `parent` was trained with other classes.
    """
    wanted, known = recipe.data.labels, None if parent is None else parent.checkpoint.clusters
    if known is not None and wanted is True:
        raise UserError(
            f"--from loads the weights of a run whose classes are {len(known.centres)} clusters, not class "
            f"folders: train with --data.labels clusters:{len(known.centres)}, or with --data.labels no"
        )
    if not isinstance(wanted, Clusters):
        return split
    if parent is not None and (known is None or len(known.centres) != wanted.count):
        raise UserError(
            f"--from loads the weights of a run without {wanted}, so its network does not know these "
            "classes: train with the labels of that run, with --data.labels no, or without --from"
        )
    processes, found = current_processes(), None
    if processes.leads:
        images, train = split.images, split.train
        cells = average_cells(images.pixels, images.values, np.arange(len(images)))
        if known is None:
            found = group_images(cells, train, wanted.count, recipe.data.flip, recipe.seed)
        else:
            found = known.assign(cells, train)
    return split.with_clusters(processes.broadcast(found))


def take_vectors(recipe: Recipe, split: SplitImages, parent: LoadedRun | None) -> SplitImages:
    """Return the images with the vectors of `data.vectors`, or `split` itself if the recipe has none.

    Process 0 reads the file, and all processes use its content. If `parent` has vectors of the same columns,
    the new run takes over their mean and deviation, because its network knows vectors that are scaled so.

    Raises:
        UserError: if the file cannot be read, or does not fit the images.
    """
    path, processes, found = recipe.data.vectors, current_processes(), None
    if path is None:
        return split
    if processes.leads:
        found = match_vectors(path, split.images.names, split.train)
        known = None if parent is None else parent.vectors
        if known is not None and known.columns == found.columns:
            found = replace(found, mean=known.mean, deviation=known.deviation)
    return split.with_vectors(processes.broadcast(found))
