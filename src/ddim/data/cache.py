"""The cache of decoded images: a uint8 memory map in the user's cache folder.

The name of a data set's folder depends on its contents (names, bytes, size, channels), not on its path. The
folder is written under a temporary name and renamed when it is complete. Any number of processes can build it
at the same time. Its files are sealed with hashes, and damaged files are not used.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple
from pathlib import Path

import numpy as np

from ddim.data import decode
from ddim.data.images import Images
from ddim.data.sealed import SEAL, SealedPixels, read_seal, write_seal
from ddim.data.sources import OTHER, Member, Reject, Source, Survey, find_classes
from ddim.errors import UserError
from ddim.files import (
    cache_folder,
    make_folder,
    publish_folder,
    remove_leftovers,
    temporary_folder,
    write_atomic,
    write_new,
)

_PIXELS, _INDEX, _REJECTS = "images.u8", "index.json", "rejects.json"


def load_cached(
    source: Source,
    text: str,
    size: tuple[int, int],
    channels: int | None,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Images:
    """Return the images of a source from the cache; decode them first if they are missing or damaged there.

    Args:
        source: the source.
        text: the name of the source that the user gave, for messages.
        size: (height, width).
        channels: as in `open_images`.
        cache: as in `open_images`.
        progress: as in `open_images`.

    Raises:
        UserError: if no image can be used, or the cache folder cannot be written.
    """
    root = cache_folder(cache)
    known = survey_source(source, root)
    channels = channels or known.channels
    fingerprint = fingerprint_survey(known, size, channels)
    folder = root / _name_folder(fingerprint, size, channels)
    found = _read(folder, fingerprint, (*size, channels))
    if found is None:
        if (folder / SEAL).exists():
            warnings.warn(
                f"the cache folder {folder} is damaged, so the images are decoded again", stacklevel=1
            )

        def tell(done: int) -> None:
            if progress:
                progress(done, known.count)

        with _writable(root):
            _build(source, text, folder, (*size, channels), tell)
        found = _read(folder, fingerprint, (*size, channels))
    if found is None:
        raise UserError(
            f"the cache {str(folder)!r} cannot be read after it was written: "
            "stop other processes that remove it, or set DDIM_CACHE to another folder"
        )
    return found


def fingerprint_survey(known: Survey, size: tuple[int, int], channels: int | None) -> str:
    """Return the fingerprint of the images of a source, decoded to a size (height, width) and channels."""
    shape = f"{size[0]}x{size[1]}x{channels or known.channels}"
    return _sha(f"{decode.VERSION} {known.content} {shape}".encode())


def open_decoded(fingerprint: str, size: tuple[int, int], *, cache: Path | None = None) -> Images | None:
    """Return the cached images with this fingerprint, or None; their source need not exist any more."""
    for channels in (1, 3, 4):
        folder = cache_folder(cache) / _name_folder(fingerprint, size, channels)
        if found := _read(folder, fingerprint, (*size, channels)):
            return found
    return None


def _name_folder(fingerprint: str, size: tuple[int, int], channels: int) -> str:
    return f"{fingerprint[:32]}-{size[0]}x{size[1]}x{channels}"


def read_rejects(images: Images) -> list[Reject]:
    """Return the files of the source that could not be used, with the reasons, sorted by name."""
    if images.folder is None:
        return []
    return [Reject(**entry) for entry in json.loads((images.folder / _REJECTS).read_text("utf-8"))]


def read_headers(images: Images) -> list[decode.Header]:
    """Return the headers (N,) of the original image files."""
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


def survey_source(source: Source, root: Path) -> Survey:
    """Return the survey of a source.

    A survey that is stored in the cache folder `root` is used if the files have not changed since then.
    """
    if known := source.survey():
        return known
    stamp = source.stamp()
    key = " ".join((*decode.list_readable(), stamp))
    note = root / "surveys" / f"{_sha(key.encode('utf-8', 'surrogateescape'))}.json"
    if stamp:
        try:
            stored = json.loads(note.read_text("utf-8"))
            if stored.pop("seal") == _sha(json.dumps(stored).encode()):
                return Survey(**stored)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            pass
    found = _surveyed(source)
    if stamp and source.stamp() == stamp:
        with _writable(root):
            make_folder(note.parent)
            fields = asdict(found)
            write_atomic(note, json.dumps(fields | {"seal": _sha(json.dumps(fields).encode())}).encode())
    return found


def _surveyed(source: Source) -> Survey:
    lines: list[tuple[str, str]] = []
    votes: Counter[int] = Counter()
    count = others = 0
    for item in source.members((0, 0)):
        if isinstance(item, Member):
            count += 1
            digest = _sha(item.data)
            with suppress(decode.UnusableError):
                header = decode.read_header(item.data)
                votes[header.channels] += 1
                # A machine that cannot read this format decodes fewer images from the same files. So the
                # fingerprint must be different there.
                digest += header.format if header.format in ("AVIF", "HEIF") else ""
            lines.append((item.name, digest))
        elif item.reason == OTHER:
            others += 1
        else:
            lines.append((item.name, item.reason))
    # RGB wins a tie: it represents gray images without loss, and transparency is seldom intended.
    channels = max((3, 4, 1), key=lambda wanted: votes[wanted])
    return Survey(_sha(json.dumps(sorted(lines)).encode()), channels, count, others)


def _build(
    source: Source,
    text: str,
    folder: Path,
    shape: tuple[int, int, int],
    progress: Callable[[int], None],
) -> None:
    """Decode all images of the source into the folder; after an error the folder does not exist."""
    make_folder(folder.parent)
    remove_leftovers(folder.parent)
    with temporary_folder(folder) as beside:
        names, headers, refused = _decode_all(source, shape, beside / _PIXELS, progress)
        if not names:
            raise UserError(_nothing(text, refused))
        rank = sorted(range(len(names)), key=names.__getitem__)
        if rank != list(range(len(names))):
            _reorder(beside / _PIXELS, rank, shape)
        # A source of images given from Python knows its labels; other labels are names of folders.
        label = getattr(source, "find_classes", find_classes)
        classes, labels = label([names[place] for place in rank])
        index = {
            "names": [names[place] for place in rank],
            "classes": classes,
            "labels": labels,
            "official": source.official,
            "originals": [astuple(headers[place]) for place in rank],
        }
        write_new(beside / _INDEX, json.dumps(index).encode())
        entries = [asdict(reject) for reject in sorted(refused, key=lambda reject: reject.name)]
        write_new(beside / _REJECTS, json.dumps(entries, indent=1).encode())
        write_seal(beside / _PIXELS, shape, _INDEX, _REJECTS)
        _move(beside, folder, shape)


def _decode_all(
    source: Source, shape: tuple[int, int, int], path: Path, progress: Callable[[int], None]
) -> tuple[list[str], list[decode.Header], list[Reject]]:
    names: list[str] = []
    headers: list[decode.Header] = []
    refused: list[Reject] = []
    done = 0
    with path.open("wb") as file:
        for item in source.members(shape[:2]):
            if isinstance(item, Reject):
                if item.reason != OTHER:
                    refused.append(item)
                continue
            try:
                found, pixels = decode.decode_image(item.data, shape[:2], shape[2])
                file.write(pixels.tobytes())
                names.append(item.name)
                headers.append(found)
            except decode.UnusableError as error:
                refused.append(Reject(item.name, str(error)))
            done += 1
            progress(done)
        file.flush()
        os.fsync(file.fileno())
    return names, headers, refused


def _reorder(path: Path, rank: list[int], shape: tuple[int, int, int]) -> None:
    pixels = np.memmap(path, np.uint8, "r", shape=(len(rank), *shape))
    sorted_path = path.with_suffix(".sorted")
    with sorted_path.open("wb") as file:
        for start in range(0, len(rank), 256):
            file.write(pixels[rank[start : start + 256]].tobytes())
        file.flush()
        os.fsync(file.fileno())
    del pixels
    sorted_path.replace(path)


def _move(beside: Path, folder: Path, shape: tuple[int, int, int]) -> None:
    """Rename a complete data set to its final folder; if that exists, replace it only if it is damaged."""
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
    """Return the data set in a folder, or None if it is missing or damaged."""
    try:
        seal = read_seal(folder)
        index = json.loads((folder / _INDEX).read_text("utf-8"))
        names, labels = tuple(index["names"]), index["labels"]
        if len(names) * math.prod(shape) != (folder / _PIXELS).stat().st_size:
            return None
        return Images(
            pixels=SealedPixels(folder / _PIXELS, (len(names), *shape), seal),
            labels=None if labels is None else np.array(labels, np.int64),
            classes=tuple(index["classes"]),
            names=names,
            fingerprint=fingerprint,
            official=_official(names) if index["official"] else None,
            folder=folder,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _official(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    train = np.array([name.startswith("train/") for name in names])
    return np.flatnonzero(train), np.flatnonzero(~train)


def _nothing(text: str, refused: Sequence[Reject]) -> str:
    if not refused:
        return f"{text!r} contains no image: give {', '.join(decode.FORMATS)} files"
    first = min(refused, key=lambda reject: reject.name)
    return (
        f"{text!r} contains no image that can be used: {len(refused)} files were refused, "
        f"the first, {first.name!r}, because: {first.reason}"
    )


@contextmanager
def _writable(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the cache folder {str(root)!r} cannot be written ({error.strerror}): "
            "set DDIM_CACHE to a folder that can be written"
        ) from None


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
