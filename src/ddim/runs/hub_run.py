"""Runs on the Hugging Face Hub, named as hub:OWNER/NAME[@REVISION]: download one and return its checkpoint.

A repository is one published checkpoint (see `ddim.runs.published`) with a model card beside it. The
manifest of the checkpoint lists its files. Only files of known names and allowed sizes are downloaded. They
are moved to their place in the cache only if all bytes match the manifest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddim.data.hub import (
    HubError,
    HubFile,
    Repository,
    copy_file,
    download_part,
    find_file,
    names_repository,
    parse_repository,
)
from ddim.errors import UserError, describe_given
from ddim.files import cache_folder, publish_folder, temporary_folder
from ddim.runs.manifest import MANIFEST, Damaged, read_document, read_manifest, verify
from ddim.runs.published import PUBLISHED
from ddim.runs.replacing import remove_folder

FOLDER = "hub"
"""The folder of the cache that holds each downloaded run, as OWNER--NAME/COMMIT/NAME."""

_WEIGHTS, _TEXT = 2**34, 2**26
NEEDED = ("model.safetensors", "state.json", "recipe.json", f"{PUBLISHED}.json")
"""The files that every published checkpoint has."""
ALLOWED = {
    "model.safetensors": _WEIGHTS,
    "state.json": _TEXT,
    "recipe.json": _TEXT,
    f"{PUBLISHED}.json": _TEXT,
    "clusters.safetensors": _WEIGHTS,
    "vectors.safetensors": _WEIGHTS,
    "grids.json": _TEXT,
    "guidance.json": _TEXT,
}
"""The files of a published checkpoint, with their largest sizes in bytes."""

_SAMPLING = ("net", "schedule", "sampled_on", "conditioning", "predicts", "sampler", "grid", "steps")
LARGEST_NUMBER = 1_000_000
"""The largest whole number in the parts of a recipe that sampling uses: larger ones would fill the memory."""


def check_run_path(run: object) -> Path:
    """Check that a run is given as a path, and return the path.

    Raises:
        UserError: if `run` is another value, such as a model.
    """
    if not isinstance(run, str | Path):
        raise UserError(f"this needs a run folder, such as runs/photos-fast-1, got {describe_given(run)}")
    return Path(run)


def locate_run(run: str | Path) -> Path:
    """Return the path of a run; a run that is named hub:OWNER/NAME is downloaded first.

    Raises:
        UserError: if `run` is not a path, or the run on the Hub cannot be downloaded or is not published.
    """
    path = check_run_path(run)
    return fetch_run(parse_repository(run)) if names_repository(run) else path


def pin_run(run: Path) -> str:
    """Return a name of a run that stays valid: its absolute path, or hub:OWNER/NAME@COMMIT.

    A run on the Hub is downloaded first, unless the cache has it.

    Raises:
        UserError: if the run on the Hub cannot be downloaded, or is not a published run.
    """
    if not names_repository(run):
        return str(run.resolve())
    return str(replace(parse_repository(run), revision=locate_run(run).parent.name))


def fetch_run(repository: Repository) -> Path:
    """Return the folder of the checkpoint of a run on the Hub; download it unless the cache has it.

    Raises:
        HubError: if it cannot be downloaded.
        UserError: if it is not a published run, or is damaged.
    """
    mark = find_file(repository, MANIFEST, _TEXT)
    name = repository.name
    folder = cache_folder() / FOLDER / f"{repository.owner}--{name}" / mark.commit / name
    if folder.is_dir():
        try:
            verify(folder)
            return folder
        except Damaged:
            remove_folder(folder)
    try:
        _assemble(repository, mark, folder)
    except Damaged as damage:
        # The copy in the cache of huggingface_hub may be damaged, and the file on the Hub sound.
        try:
            _assemble(repository, mark, folder, again=True)
        except HubError:
            raise damage from None
    return folder


def _assemble(repository: Repository, mark: HubFile, folder: Path, *, again: bool = False) -> None:
    """Download the files of a published checkpoint, check all of them, and move them to `folder`."""
    with temporary_folder(folder) as temporary:
        try:
            for name, largest in _list_parts(repository, mark, temporary, again=again):
                copy_file(
                    download_part(repository, mark.commit, name, largest, again=again), temporary / name
                )
            verify(temporary)
            _check_recipe(read_document(temporary, "recipe"), repository)
        except Damaged as damage:
            raise Damaged(str(damage).replace(str(temporary), str(repository))) from None
        try:
            publish_folder(temporary, folder)
        except OSError:
            # Another process may have been quicker.
            if not folder.is_dir():
                raise


def _list_parts(
    repository: Repository, mark: HubFile, temporary: Path, *, again: bool
) -> Iterator[tuple[str, int]]:
    """Copy the manifest into a folder; yield the names of the other files and their sizes in the manifest."""
    path = download_part(repository, mark.commit, MANIFEST, _TEXT, again=True) if again else mark.path
    copy_file(path, temporary / MANIFEST)
    files = read_manifest(temporary).files
    for name in NEEDED:
        if name not in files:
            raise UserError(f"{repository} is not a published run: its {MANIFEST} does not list {name}")
    for name, entry in files.items():
        if name not in ALLOWED:
            raise UserError(f"{repository} is refused: {name!r} does not belong to a published run")
        size = entry.get("size") if isinstance(entry, dict) else None
        if type(size) is not int or not 0 <= size <= ALLOWED[name]:
            raise UserError(
                f"{repository} is refused: {name} must have at most {ALLOWED[name]:,} bytes, got {size!r}"
            )
        yield name, size


def _check_recipe(recipe: object, repository: Repository) -> None:
    """Check that a recipe names no folder of this machine, and contains no number that needs huge memory."""
    tree: dict[str, Any] = recipe if isinstance(recipe, dict) else {}
    data = tree.get("data") if isinstance(tree.get("data"), dict) else {}
    for name in (data.get("source"), data.get("vectors")):
        if isinstance(name, str) and not names_repository(name) and re.search(r"^[.~]|[/\\]", name):
            raise UserError(f"{repository} is refused: its recipe names a folder of this machine, {name!r}")
    parts = {name: tree.get(name) for name in _SAMPLING}
    for number in _whole_numbers(parts):
        if abs(number) > LARGEST_NUMBER:
            raise UserError(
                f"{repository} is refused: whole numbers in its recipe must be from -{LARGEST_NUMBER:,} to "
                f"{LARGEST_NUMBER:,}, got {number}"
            )


def _whole_numbers(value: Any) -> Iterator[int]:  # noqa: ANN401 (JSON)
    if isinstance(value, int):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _whole_numbers(inner)
