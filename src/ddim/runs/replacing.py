"""Replace and remove folders so that a crash leaves each one complete or absent."""

import os
import shutil
from pathlib import Path

from ddim.files import publish_folder, sync_folder, temporary_name

FRESH = ".new"
"""Ending of the name of a complete folder that is about to replace another; see `replace_folder`."""


def replace_folder(temporary: Path, path: Path) -> None:
    """Rename a filled temporary folder to `path`, in place of the folder there; see `publish_folder`.

    A rename cannot replace a folder that has content. So the new folder first gets the ending `FRESH`, then
    the old one is removed, then the new one gets its final name. A process that is killed may leave both
    folders: readers must prefer the new one, and the next writer must call `settle_folder`.
    """
    if not path.exists():
        publish_folder(temporary, path)
        return
    fresh = path.with_name(path.name + FRESH)
    publish_folder(temporary, fresh)
    settle_folder(fresh)


def settle_folder(fresh: Path) -> None:
    """Rename a folder with the ending `FRESH` to its final name, in place of the folder there."""
    path = fresh.with_name(fresh.name.removesuffix(FRESH))
    if path.exists():
        remove_folder(path)
    os.rename(fresh, path)
    sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder so that a crash leaves it complete or absent."""
    # The folder is renamed first, because a partly deleted one would look like a damaged one.
    rubbish = temporary_name(path)
    os.rename(path, rubbish)
    shutil.rmtree(rubbish, ignore_errors=True)
