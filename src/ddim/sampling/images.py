"""Open the images that a run was trained on, with their split into training and validation images."""

import re
from dataclasses import replace
from pathlib import Path

from ddim.data import Images, SplitImages, open_images, split_images
from ddim.data.arrays import PREFIX
from ddim.data.cache import open_decoded
from ddim.data.open import NAMES, absolute_source, source_exists
from ddim.errors import UserError, quote, warn_user
from ddim.files import read_sealed
from ddim.machine.progress import Progress, ignore_progress
from ddim.recipe.codec import load_recipe
from ddim.recipe.recipe import Data, Recipe
from ddim.runs import checkpoint
from ddim.runs.folder import RUN
from ddim.runs.names import find_run_folder, is_published, read_checkpoint
from ddim.runs.state import RunState, TrainedOn
from ddim.sampling.pipeline import LoadedRun, load_state


def open_run_images(trained: LoadedRun, progress: Progress = ignore_progress) -> SplitImages:
    """Return the images that a run was trained on, with its labels, and split as in its training.

    Raises:
        UserError: if the run was imported, or its images are missing, have changed or are split in another
            way now. Also if the run was published, and its images are not a built-in data set.
    """
    at = trained.checkpoint
    split = reopen_split(find_run_folder(at.path), at.path, trained.recipe, at.state, progress)
    return split.with_conditions(trained.clusters, trained.vectors)


def reopen_split(run: Path, path: Path, recipe: Recipe, state: RunState, progress: Progress) -> SplitImages:
    """Return the images of the checkpoint `path` of a run, split as in its training; see `open_run_images`.

    They have no clusters and no vectors yet.
    """
    known = _know_images(path, recipe, state)
    images = reopen_images(run, recipe.data, known.fingerprint, progress)
    split = split_images(images, recipe.data.validation, recipe.split_seed)
    check_same_split(split, known.train)
    return split


def check_same_split(split: SplitImages, train: int) -> None:
    """Check that the images of a run are split as in its training, into `train` training images and others.

    Raises:
        UserError: if they are not. Then some held-out images may be images that the run was trained on.
    """
    if len(split.train) != train:
        raise UserError(f"the run was trained on {train:,} of these images, but now on {len(split.train):,}")


def _know_images(path: Path, recipe: Recipe, state: RunState) -> TrainedOn:
    """Return which images the checkpoint `path` of a run was trained on.

    A stranger may have written the recipe of a published run. From such a recipe, only a built-in data set is
    opened, never a path or a repository.

    Raises:
        UserError: if the run was imported, or published and its images are not a built-in data set.
    """
    source = recipe.data.source
    built_in = source.partition(":")[0] in NAMES and not re.search(r"[/\\]", source)
    if is_published(path) and not built_in:
        raise UserError(f"run {path} was published without its training images ({source!r})")
    if state.images is None:
        raise UserError(f"run {path} was imported and has no training images")
    return state.images


def read_parent_recipe(run: str | Path, *, own_images: bool) -> Recipe:
    """Return the recipe of the run that a new run starts from.

    Args:
        run: the run.
        own_images: whether the user has named the images of the new run. If not, they are those of `run`, and
            the recipe names the place where they are now.

    Raises:
        UserError: if there is no checkpoint. Also if `own_images` is False, and the images of `run` are
            missing or have changed, or it was imported, or published and they are not a built-in data set.
    """

    def read(path: Path) -> tuple[Path, Recipe, RunState]:
        return path, load_recipe(checkpoint.read_document(path, "recipe")), load_state(path)

    path, recipe, state = read_checkpoint(run, read)
    if own_images:
        return recipe
    folder, source = find_run_folder(path), recipe.data.source
    known = _know_images(path, recipe, state)
    opened = _find_images(folder, recipe.data, known.fingerprint, ignore_progress)
    if opened is None:
        raise UserError(_explain_missing(folder, source))
    same = source_exists(source) and absolute_source(source) == opened[0]
    return replace(recipe, data=replace(recipe.data, source=source if same else opened[0]))


def reopen_images(run: Path, data: Data, fingerprint: str, progress: Progress = ignore_progress) -> Images:
    """Return the images of a run, read from the place where they are now.

    The images are searched first at the absolute path that the run recorded, then at the path in its recipe,
    which may be relative to the working folder. If the images are at neither path, their decoded copies in
    the cache are used, with a warning.

    Args:
        run: the run folder.
        data: the data fields of its recipe.
        fingerprint: the fingerprint of its images. Other images are refused: their split would differ, and
            training images could count as held-out images.
        progress: called while images are decoded.

    Raises:
        UserError: if the images are missing or have changed.
    """
    opened = _find_images(run, data, fingerprint, progress)
    if opened is not None:
        return opened[1]
    images = open_decoded(fingerprint)
    if images is None:
        raise UserError(_explain_missing(run, data.source))
    if not data.source.startswith(PREFIX):
        warn_user(f"the images {data.source!r} of {run} are gone; their decoded copies in the cache are used")
    return replace(images, values=data.reading.limit(images.values, images.pixels))


def _find_images(run: Path, data: Data, fingerprint: str, progress: Progress) -> tuple[str, Images] | None:
    """Return the place where the images of a run are now, and the images; None if no known place has images.

    Raises:
        UserError: if the images have changed, or cannot be read, such as a data set that must be downloaded.
    """
    recorded = read_sealed(run / RUN)["data"].get("path") if (run / RUN).is_file() else None
    known = dict.fromkeys((recorded or data.source, data.source))
    places = [place for place in known if source_exists(place)]
    for place in places:
        images = open_source(place, data, progress)
        if images.fingerprint == fingerprint:
            return place, images
    if places:
        raise UserError(f"data {places[-1]} has changed since {run} was trained on it: put its images back")
    return None


def open_source(source: str, data: Data, progress: Progress = ignore_progress) -> Images:
    """Return the images of a source, read as `data` says; they are decoded if necessary.

    Raises:
        UserError: if there is no such source, or no usable image in it.
    """
    return open_images(source, data.size, data.channels, reading=data.reading, progress=progress)


def _explain_missing(run: Path, source: str) -> str:
    advice = f"give them or their new path with ddim.resume or `ddim train DATA --resume --out {quote(run)}`"
    return f"the images of run {run}, {source!r}, are missing, seen from {Path.cwd()}: {advice}"
