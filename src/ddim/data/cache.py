"""The cache of decoded images: a memory map of uint8, uint16 or float32 in the user's cache folder.

The name of a data set's folder depends on its contents (names, bytes, size, channels), not on its path. The
folder is written under a temporary name and renamed when it is complete. Any number of processes can build it
at the same time. Its files are checked against stored hashes, and damaged files are not used.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ddim.data import decode
from ddim.data.checked_pixels import SEAL, SealedPixels, read_seal, write_seal
from ddim.data.high_bit_depth import VERSION, decode_any
from ddim.data.images import Images
from ddim.data.sources import OTHER, Reject, Source, Survey, find_labels
from ddim.data.survey import Contents, explained_writing, forget_survey, hash_text, read_bytes, survey_source
from ddim.data.values import EIGHT_BITS, Values, ValueType
from ddim.errors import NoSpace, UserError, warn_user
from ddim.files import (
    cache_folder,
    cache_folders,
    publish_folder,
    temporary_folder,
    write_new,
)
from ddim.files.locks import remove_leftovers_once

_INDEX, _REJECTS = "index.json", "rejects.json"
_PIXELS: dict[ValueType, str] = {"uint8": "images.u8", "uint16": "images.u16", "float32": "images.f32"}


def load_cached(
    source: Source,
    text: str,
    wanted: tuple[int, int, int | None],
    *,
    values: Literal["auto"] | ValueType = "auto",
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    checking: Callable[[int, int], None] | None = None,
) -> Images:
    """Return the images of a source from the cache; decode them first if they are missing or damaged there.

    Args:
        source: the source.
        text: the name of the source that the user gave, for messages.
        wanted: (height, width, channels), with the channels as in `open_images`.
        values: the type of the values of the pixels; "auto" takes the type of most files.
        cache: as in `open_images`.
        progress: as in `open_images`.
        checking: as in `open_images`.

    Raises:
        UserError: if no image can be used, the source changes while it is decoded, or the cache folder cannot
            be written.
        NoSpace: if the disk is full, or has too little space. This is checked before images are decoded, and
            when an archive turns out to be unsorted, because its images are then copied once.
    """
    root = cache_folder(cache)
    # A command that finds its images here writes nothing, which would remove them too.
    remove_leftovers_once(root)
    known = survey_source(source, root, checking)
    size, channels, kept = wanted[:2], wanted[2] or known.channels, known.find_values(values)
    fingerprint = fingerprint_survey(known, size, channels, values)
    shape = (*size, channels)
    name = _name_folder(fingerprint, shape, kept.type)
    folder = root / name
    kept_there = (_read(place / name, fingerprint, shape) for place in cache_folders(cache))
    found = next(filter(None, kept_there), None)
    if found is None:
        if (folder / SEAL).exists():
            warn_user(f"the cache folder {folder} is damaged, so the images are decoded again")

        def tell(done: int) -> None:
            if progress:
                progress(done, known.count)

        with explained_writing(root):
            _build(source, text, known, folder, shape, kept, tell)
        found = _read(folder, fingerprint, shape)
    if found is None:
        raise UserError(
            f"the cache {str(folder)!r} cannot be read after it was written: "
            "stop other processes that remove it, or set DDIM_CACHE to another folder"
        )
    return _split_by_name(found) if source.official else found


def fingerprint_survey(
    known: Survey, size: tuple[int, int], channels: int | None, values: Literal["auto"] | ValueType = "auto"
) -> str:
    """Return the fingerprint of the images of a source, decoded to `size` (height, width) and `channels`."""
    shape = f"{size[0]}x{size[1]}x{channels or known.channels}"
    kind = known.find_values(values).type
    deep = "" if kind == "uint8" else f" {kind} {VERSION}"
    return hash_text(f"{decode.VERSION} {known.content} {shape}{deep}")


def open_decoded(fingerprint: str, size: tuple[int, int], *, official: bool = False) -> Images | None:
    """Return the images with this fingerprint if they are cached, else None; their source may be gone.

    `official` says whether the source defines a split. The cache cannot know it, because two sources with
    the same files share their decoded images.
    """
    pattern = f"{fingerprint[:32]}-{size[0]}x{size[1]}x*"
    for folder in (found for root in cache_folders() for found in sorted(root.glob(pattern))):
        shape = re.fullmatch(r"x(\d+)(-\w+)?", folder.name[len(f"{fingerprint[:32]}-{size[0]}x{size[1]}") :])
        if shape and (found := _read(folder, fingerprint, (*size, int(shape[1])))):
            return _split_by_name(found) if official else found
    return None


def _name_folder(fingerprint: str, shape: tuple[int, int, int], kind: ValueType) -> str:
    """Return the name of the folder of images (H, W, C); see also `cache_contents`."""
    deep = {"uint8": "", "uint16": "-u16", "float32": "-f32"}[kind]
    return f"{fingerprint[:32]}-{'x'.join(map(str, shape))}{deep}"


def read_rejects(images: Images) -> list[Reject]:
    """Return the files of the source that could not be used, with the reasons, sorted by name.

    The list is empty if the images are not cached.
    """
    if images.folder is None:
        return []
    return [Reject(**entry) for entry in json.loads((images.folder / _REJECTS).read_text("utf-8"))]


def read_headers(images: Images) -> list[decode.Header]:
    """Return the headers (N,) of the original image files; [] if the images are not cached."""
    if images.folder is None:
        return []
    return [
        decode.Header(*entry)
        for entry in json.loads((images.folder / _INDEX).read_text("utf-8"))["originals"]
    ]


def find_enlarged(images: Images) -> list[decode.Header]:
    """Return the headers of the original files that are smaller than the images in height or width."""
    _, height, width, _ = images.pixels.shape
    return [header for header in read_headers(images) if header.height < height or header.width < width]


def _build(
    source: Source,
    text: str,
    known: Survey,
    folder: Path,
    shape: tuple[int, int, int],
    kept: Values,
    progress: Callable[[int], None],
) -> None:
    """Decode all images of the source into the folder; an error leaves the folder as it was before."""
    with temporary_folder(folder) as beside:
        path = beside / _PIXELS[kept.type]
        # Generated images, and those given from Python, have no files to compare with the survey.
        contents = None if source.survey() else Contents(source)
        row = math.prod(shape) * np.dtype(kept.type).itemsize
        whole = known.count * row
        names, headers, given, refused = _decode_all(source, shape, path, kept, contents, whole, progress)
        if contents and not source.stamp() and contents.hash() != known.content:
            forget_survey(source, folder.parent)
            raise UserError(_changed(text, contents))
        if not names:
            raise UserError(_nothing(text, refused))
        rank = sorted(range(len(names)), key=names.__getitem__)
        if rank != list(range(len(names))):
            _reorder(path, rank, shape, kept.type)
        ordered = [names[place] for place in rank]
        classes, labels = (
            source.find_classes(ordered)
            if all(label is None for label in given)
            else find_labels(ordered, [given[place] for place in rank], source.class_names)
        )
        index = {
            "names": ordered,
            "classes": classes,
            "labels": labels,
            "originals": [astuple(headers[place]) for place in rank],
            **({} if kept.eight_bits else {"values": kept.to_json()}),
        }
        write_new(beside / _INDEX, json.dumps(index).encode())
        entries = [asdict(reject) for reject in sorted(refused, key=lambda reject: reject.name)]
        write_new(beside / _REJECTS, json.dumps(entries, indent=1).encode())
        write_seal(path, row, _INDEX, _REJECTS)
        _move(beside, folder, shape)


def _decode_all(
    source: Source,
    shape: tuple[int, int, int],
    path: Path,
    kept: Values,
    contents: Contents | None,
    whole: int,
    progress: Callable[[int], None],
) -> tuple[list[str], list[decode.Header], list[str | int | None], list[Reject]]:
    """Write the pixels of all images, which need `whole` bytes; return what is known of them."""
    names: list[str] = []
    headers: list[decode.Header] = []
    given: list[str | int | None] = []
    refused: list[Reject] = []
    done, in_order, root = 0, True, path.parents[2]  # `path` lies in a temporary folder beside others
    _check_space(root, whole, "the decoded images need")
    with path.open("wb") as file:
        for item in source.members(shape[:2]):
            if contents:
                contents.add(item)
            if isinstance(item, Reject):
                if item.reason != OTHER:
                    refused.append(item)
                continue
            try:
                found, pixels = decode_any(read_bytes(item), shape[:2], shape[2], kept)
                file.write(pixels.tobytes())
                if in_order and names and item.name < names[-1]:
                    in_order = False
                    # `_reorder` will write a second copy.
                    _check_space(
                        root, 2 * whole - file.tell(), "the images of an unsorted archive still need"
                    )
                names.append(item.name)
                headers.append(found)
                given.append(item.label)
            except decode.UnusableError as error:
                refused.append(Reject(item.name, str(error)))
            done += 1
            progress(done)
        file.flush()
        os.fsync(file.fileno())
    return names, headers, given, refused


def _check_space(root: Path, needed: int, what: str) -> None:
    """Check that the cache folder `root` has so many free bytes; `what` begins the message."""
    disk = shutil.disk_usage(root)
    # Some network drives report no sizes.
    if disk.total and disk.free < needed:
        raise NoSpace(
            f"{what} {needed / 1e6:,.1f} MB, and the cache folder {str(root)!r} has "
            f"{disk.free / 1e6:,.1f} MB free: choose a smaller --size, make room with "
            "`ddim cache --clear images`, or set DDIM_CACHE to a folder on another drive"
        )


def _reorder(path: Path, rank: list[int], shape: tuple[int, int, int], kind: ValueType) -> None:
    pixels = np.memmap(path, kind, "r", shape=(len(rank), *shape))
    sorted_path = path.with_suffix(".sorted")
    with sorted_path.open("wb") as file:
        for start in range(0, len(rank), 256):
            file.write(pixels[rank[start : start + 256]].tobytes())
        file.flush()
        os.fsync(file.fileno())
    del pixels
    sorted_path.replace(path)


def _move(beside: Path, folder: Path, shape: tuple[int, int, int]) -> None:
    """Rename a complete data set to its final folder; replace an existing folder only if it is damaged."""
    try:
        publish_folder(beside, folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        # The existing folder has the same contents, and another process may be using it: keep it.
        if _read(folder, "", shape):
            return
        # A process that still reads the damaged folder is not disturbed, because its open files stay.
        with temporary_folder(folder) as aside, suppress(FileNotFoundError):
            folder.rename(aside / "old")
        with suppress(OSError):
            publish_folder(beside, folder)


def _read(folder: Path, fingerprint: str, shape: tuple[int, int, int]) -> Images | None:
    """Return the images in a folder of the cache, or None if the folder is missing or damaged."""
    try:
        seal = read_seal(folder)
        index = json.loads((folder / _INDEX).read_text("utf-8"))
        names, labels = tuple(index["names"]), index["labels"]
        values = Values(**index["values"]) if "values" in index else EIGHT_BITS
        path, dtype = folder / _PIXELS[values.type], np.dtype(values.type)
        if len(names) * math.prod(shape) * dtype.itemsize != path.stat().st_size:
            return None
        return Images(
            pixels=SealedPixels(path, (len(names), *shape), seal, dtype),
            labels=None if labels is None else np.array(labels, np.int64),
            classes=tuple(index["classes"]),
            names=names,
            fingerprint=fingerprint,
            folder=folder,
            values=values,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _split_by_name(images: Images) -> Images:
    """Return images with the split of their source, whose training images have names such as train/1.png."""
    train = np.array([name.startswith("train/") for name in images.names])
    return replace(images, official=(np.flatnonzero(train), np.flatnonzero(~train)))


def _changed(text: str, contents: Contents) -> str:
    faults = [f", {first.name!r} {first.reason}" for first in contents.unreadable[:1]]
    return f"{text!r} changed or could not be read while it was decoded{''.join(faults)}: try again"


def _nothing(text: str, refused: Sequence[Reject]) -> str:
    if not refused:
        return f"{text!r} contains no image: give {', '.join(decode.FORMATS)} files"
    first = min(refused, key=lambda reject: reject.name)
    return (
        f"{text!r} contains no image that can be used: {len(refused)} files were refused, "
        f"the first, {first.name!r}, because: {first.reason}"
    )
