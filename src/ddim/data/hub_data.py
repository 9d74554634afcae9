"""Download the files with the images of data sets on the Hugging Face Hub, hub:OWNER/NAME[@REVISION].

The files are chosen by their names: parquet files if there are any, else one archive or file of arrays, else
image files. If some of the chosen files belong to a split "train", the other files are left out. The files
are read like local files: no code in them runs.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from ddim.data.decode import is_image_name
from ddim.data.hub import (
    HubError,
    Repository,
    copy_file,
    download_listed,
    is_commit,
    list_files,
    warn_of_copy,
)
from ddim.errors import NoSpace, UserError
from ddim.files import cache_folder, publish_folder, read_sealed, temporary_folder, write_sealed

FOLDER = "hub"
"""The folder in the cache with the downloaded data sets: datasets--OWNER--NAME/COMMIT/NAME."""
REVISIONS = "revisions.json"
"""The file beside the folders of the commits; it stores the last known commit of each branch or tag."""
MOST_FILES = 100_000

_PARQUET = (".parquet",)
_SINGLE = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".npy", ".npz")
_TRAIN = re.compile(r"(?:^|[/_.-])train(?:ing)?(?=[/_.-])", re.IGNORECASE)
# No part begins with a dot, so that no name leads outside or is hidden.
_SAFE = re.compile(r"[^/\\:\x00-\x1f.][^/\\:\x00-\x1f]*(?:/[^/\\:\x00-\x1f.][^/\\:\x00-\x1f]*)*")


def fetch_data(repository: Repository) -> Path:
    """Return the file or folder with the images of a data set; what is in the cache is not downloaded again.

    Raises:
        HubError: if the data set cannot be downloaded.
        UserError: if the data set holds no images, several archives or files of arrays, or too many files.
        NoSpace: if the disk has too little space.
    """
    name, revision = repository.name, repository.revision or "main"
    home = cache_folder() / FOLDER / f"datasets--{repository.owner}--{name}"
    known = read_sealed(home / REVISIONS) if (home / REVISIONS).is_file() else {}
    if is_commit(revision) and (home / revision / name).is_dir():
        return _find_single(home / revision / name)
    try:
        listing = list_files(repository)
    except HubError as error:
        copy = home / str(known.get(revision)) / name
        if not copy.is_dir():
            raise
        warn_of_copy(error, copy.parent.name)
        return _find_single(copy)
    folder = home / listing.commit / name
    if not folder.is_dir():
        _download(repository, listing.commit, choose_files(listing.sizes, repository), folder)
    if known.get(revision) != listing.commit:
        write_sealed(home / REVISIONS, {**known, revision: listing.commit})
    return _find_single(folder)


def choose_files(sizes: Mapping[str, int], repository: Repository) -> dict[str, int]:
    """Return the files of a data set to download, with their sizes in bytes.

    Args:
        sizes: the sizes of all files, keyed by name.
        repository: the data set, for messages.

    Raises:
        UserError: if there are no images, several archives or files of arrays, or too many files.
    """
    safe = [name for name in sizes if _SAFE.fullmatch(name)]
    for found in (
        [name for name in safe if name.lower().endswith(_PARQUET)],
        [name for name in safe if name.lower().endswith(_SINGLE)],
        [name for name in safe if is_image_name(name, b"")],
    ):
        chosen = [name for name in found if _TRAIN.search(name)] or found
        if len(chosen) > 1 and chosen[0].lower().endswith(_SINGLE):
            raise UserError(
                f"{repository} holds {len(chosen):,} archives or files of arrays: download one with "
                f"`hf download {repository.id} --repo-type dataset`, and give its path"
            )
        if len(chosen) > MOST_FILES:
            raise UserError(
                f"{repository} holds {len(chosen):,} files, at most {MOST_FILES:,} are downloaded"
            )
        if chosen:
            return {name: sizes[name] for name in chosen}
    raise UserError(f"{repository} holds no images: no parquet file, archive, file of arrays or image file")


def _download(repository: Repository, commit: str, sizes: Mapping[str, int], folder: Path) -> None:
    with temporary_folder(folder) as temporary:
        total, free = sum(sizes.values()), shutil.disk_usage(temporary).free
        if total > free:
            raise NoSpace(
                f"{repository} needs {total / 1e9:,.1f} GB, {cache_folder()} has {free / 1e9:,.1f} GB free: "
                "make room, or set DDIM_CACHE and HF_HOME to another folder"
            )
        for name, size in sizes.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            copy_file(download_listed(repository, commit, name, size), temporary / name)
        try:
            publish_folder(temporary, folder)
        except OSError:
            # Another process may have been quicker.
            if not folder.is_dir():
                raise


def _find_single(folder: Path) -> Path:
    """Return the only file of a folder if it is not an image, else the folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return files[0] if len(files) == 1 and not is_image_name(files[0].name, b"") else folder
