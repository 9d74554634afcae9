"""Find the source of images that the user names: a path or the name of a data set."""

import os
import re
from pathlib import Path

from ddim.data.arrays import GIVEN, PREFIX, SUFFIXES, Arrays
from ddim.data.blossoms import Blossoms
from ddim.data.remote import NAMED, fetch_data, names_repository, open_named, parse_repository
from ddim.data.sources import Archive, Folder, Parquet, Source, find_parquet, is_archive
from ddim.data.values import AS_FILES_SAY, Reading
from ddim.errors import UserError, suggest

NAMES = ("blossoms", *NAMED)


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
    """Return the (height, width) of the images in a file of arrays; None for others, and if there are none.

    Raises:
        UserError: if the file cannot be read, or its array cannot be used as images.
    """
    path = Path(os.path.expanduser(source))
    return Arrays(path, reading).size if _is_array(path) else None


def _is_array(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def find_source(text: str, reading: Reading = AS_FILES_SAY) -> Source:  # noqa: PLR0911 (the kinds of sources)
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
        if files := find_parquet(path):
            return Parquet(files)
        if path.is_dir():
            return Folder(path)
        if _is_array(path):
            return Arrays(path, reading)
        if is_archive(path):
            return Archive(path)
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
