"""Open the images of a source that the user names: a path or the name of a data set."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from ddim.data.arrays import GIVEN, PREFIX, SUFFIXES, Arrays
from ddim.data.blossoms import Blossoms
from ddim.data.cache import load_images
from ddim.data.images import Images, check_size
from ddim.data.parquet import Parquet, find_parquet
from ddim.data.remote import NAMED, fetch_data, names_repository, open_named, parse_repository
from ddim.data.sources import Archive, Folder, Source, is_archive
from ddim.data.values import AS_FILES_SAY, Reading
from ddim.errors import UserError, suggest

NAMES = ("blossoms", *NAMED)


def open_images(
    source: str | Path,
    size: tuple[int, int],
    channels: int | None = None,
    *,
    reading: Reading = AS_FILES_SAY,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Images:
    """Return the images of a source at one size; they are decoded once and stored in a cache.

    Each image is cropped at the centre to the aspect ratio of `size`, then resized. 16-bit and float values
    are kept, see `Images.values`.

    Args:
        source: a folder, a .zip, a .tar[.gz|.xz], a .npy, a .npz, a .parquet, or the name of a built-in data
            set: "blossoms", "blossoms:COUNT", "flowers", "pets" or "cifar10". The last three are downloaded
            by torchvision; "pets:FOLDER" names the folder that torchvision calls root.
            "hub:OWNER/NAME[@REVISION]" is a data set on the Hugging Face Hub. If a path with such a name
            exists, the path takes precedence. The text of a source that `give_images` returned is accepted
            too.
        size: (height, width) in pixels.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA); if None, the most frequent number in the files is used.
        reading: how pixel values are read; by default the files determine it.
        cache: folder of the cache; None means $DDIM_CACHE, or else the user's cache folder.
        progress: called with (done, total) while images are decoded; for an archive, whose number of files is
            unknown, the total is the number done.

    Raises:
        UserError: if there is no such source, no usable image in it, or `size`, `channels` or `reading` has a
            value that is not possible for these images.
    """
    check_size(size)
    if channels not in (None, 1, 3, 4):
        raise UserError(f"data.channels must be 1 (gray), 3 (RGB) or 4 (RGBA), got {channels}")
    opened = find_source(str(source), reading)
    return load_images(opened, str(source), size, channels, reading=reading, cache=cache, progress=progress)


def source_exists(text: str) -> bool:
    """Return whether a text is an existing path, or begins like the name of a data set; nothing is opened."""
    known = text in GIVEN or names_repository(text) or text.partition(":")[0] in NAMES
    return known or os.path.exists(os.path.expanduser(text))


def absolute_source(text: str) -> str:
    """Return the text of a source with its path made absolute, so that the working folder does not matter."""
    name, colon, copy = text.partition(":")
    if os.path.lexists(os.path.expanduser(text)):
        return os.path.abspath(os.path.expanduser(text))
    return f"{name}:{os.path.abspath(os.path.expanduser(copy))}" if colon and name in NAMED else text


def find_array_size(source: str | Path, reading: Reading = AS_FILES_SAY) -> tuple[int, int] | None:
    """Return the (height, width) of the images in a file of arrays; None for other sources.

    Raises:
        UserError: if the file holds no images.
    """
    path = Path(os.path.expanduser(source))
    return Arrays(path, reading).size if _is_array(path) else None


def _is_array(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def find_source(text: str, reading: Reading = AS_FILES_SAY) -> Source:
    """Return the source that a text names, such as a path or the name of a data set; see `open_images`.

    If a path with the given name exists, the path takes precedence.

    Raises:
        UserError: if there is no such source. The message suggests a similar name if there is one.
    """
    name, _, copy = text.partition(":")
    path = Path(os.path.expanduser(text))
    if text in GIVEN:
        return GIVEN[text]
    if text.startswith(PREFIX):
        raise UserError(f"the images {text.removeprefix(PREFIX)} were given from Python: give them again")
    if text and os.path.lexists(path):
        if found := _open_path(path, reading):
            return found
    elif names_repository(text):
        return find_source(str(fetch_data(parse_repository(text))), reading)
    elif name == "blossoms" and (text == name or re.fullmatch("[1-9][0-9]{0,6}", copy)):
        return Blossoms(int(copy)) if copy else Blossoms()
    elif name in NAMED and (copy or text == name):
        return open_named(name, Path(os.path.expanduser(copy)) if copy else None)
    near = [entry.name for entry in path.parent.glob("*") if entry.is_dir()]
    kinds = "neither a folder nor a .zip, .tar, .npy, .npz or .parquet file"
    missing = kinds if os.path.lexists(path) else "missing"
    hint = suggest(path.name, near) or suggest(name, NAMES)
    raise UserError(f"{text!r} is {missing}, and no data set ({', '.join(NAMES)}) has this name{hint}")


def _open_path(path: Path, reading: Reading) -> Source | None:
    if files := find_parquet(path):
        return Parquet(files)
    if path.is_dir():
        return Folder(path)
    if _is_array(path):
        return Arrays(path, reading)
    return Archive(path) if is_archive(path) else None
