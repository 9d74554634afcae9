"""Decode the images of a source once, and keep them in the user's cache folder.

A data set is a folder with the pixels, a memory map, and a sealed index. It is written under a temporary name
and renamed once. Its name depends on the contents of the files, not on their path. A small note for each
source says which folder holds its images, as long as its files do not change.
"""

import hashlib
import os
import shutil
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from ddim import files
from ddim.data.decode import FORMATS, VERSION, Header, UnusableError, decode_image, hide_warnings, read_header
from ddim.data.images import Images, check_size
from ddim.data.labels import find_classes
from ddim.data.open import find_source
from ddim.data.sources import OTHER, Member, Reject, Source, read_members
from ddim.data.values import AS_FILES_SAY, LARGEST, Reading, Values, ValueType, choose_range
from ddim.errors import UserError, explain_error, warn_user
from ddim.machine.progress import Progress, ignore_progress

_INDEX, _PIXELS, _NOTE = "index.json", "pixels", "note.json"


def open_images(
    source: str | Path | Source,
    size: tuple[int, int],
    channels: int | None = None,
    *,
    reading: Reading = AS_FILES_SAY,
    cache: Path | None = None,
    progress: Progress = ignore_progress,
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
            too, and so is a `Source`.
        size: (height, width) in pixels.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA); if None, the most frequent number in the files is used.
        reading: how pixel values are read; by default the files determine it.
        cache: folder of the cache; None means $DDIM_CACHE, or else the user's cache folder.
        progress: called with "reading images" while images are decoded; for an archive, whose number of files
            is unknown, the total is the number done.

    Raises:
        UserError: if there is no such source, no usable image in it, or `size`, `channels` or `reading` has a
            value that is not possible for these images. Also if the cache folder cannot be written.
        NoSpace: if the disk is full.
    """
    if channels not in (None, 1, 3, 4):
        raise UserError(f"data.channels must be 1 (gray), 3 (RGB) or 4 (RGBA), got {channels}")
    text, root = str(source), files.cache_folder(cache)
    if isinstance(source, str | Path):
        check_size(size)
        source = find_source(text, reading)
    stamp = source.stamp()
    # Which formats can be read depends on packages too.
    packages = [bool(find_spec(name)) for name in ("pillow_heif", "imagecodecs")]
    wanted = _Wanted(size, channels, reading.values)
    place = root / "stamps" / files.hash_json([VERSION, packages, stamp, *wanted])
    images = _follow_note(root, place)
    if images is None:
        try:
            place.mkdir(parents=True, exist_ok=True)
            # The lock lets a second process wait for the first one, in place of decoding the images too.
            with files.lock_folder(place, wait=-1):
                images = _follow_note(root, place)
                if images is None:
                    images = _build(source, text, root / "images", wanted, progress)
                    # Without a stamp, changes of the files would not be seen.
                    if stamp and source.stamp() == stamp:
                        rejects = [astuple(reject) for reject in images.rejects]
                        note = {"folder": images.folder and images.folder.name, "rejects": rejects}
                        files.write_sealed(place / _NOTE, note | {"skipped": images.skipped})
        except OSError as error:
            what = f"the cache folder {str(root)!r} cannot be written"
            raise explain_error(error, what, "set DDIM_CACHE to a folder that can be written") from None
    return replace(images, values=reading.limit(images.values, images.pixels))


def _follow_note(root: Path, place: Path) -> Images | None:
    """Return the images that a note names; None if there is no note, or its folder is missing or damaged."""
    with suppress(OSError, ValueError):  # UserError is a ValueError
        note = files.read_sealed(place / _NOTE)
        rejects = tuple(Reject(*entry) for entry in note["rejects"])
        return replace(_read(root / "images" / note["folder"]), rejects=rejects, skipped=note["skipped"])
    return None


# Decoding

_Form: TypeAlias = tuple[tuple[int, int], int, ValueType]
"""The size, the number of channels and the type in which all images are stored."""


class _Wanted(NamedTuple):
    """The form that the user wants: None or "auto" stands for that of most images."""

    size: tuple[int, int]
    channels: int | None
    values: Literal["auto"] | ValueType


@dataclass(frozen=True)
class _Result:
    """What came of a member of a source.

    Attributes:
        name: its name.
        label: its label.
        digest: the SHA-256 (hex) of its data; "" for a file that is no image.
        header: its header; None if it cannot be read.
        pixels: the decoded pixels; None if it cannot be used, or they are written.
        ends: the smallest and the largest value before it is cropped; see `Decoded`.
        reason: the reason why it cannot be used.
    """

    name: str
    label: str | int | None = None
    digest: str = ""
    header: Header | None = None
    pixels: np.ndarray | None = None
    ends: tuple[float, float] = (0.0, 1.0)
    reason: str = ""


def _build(source: Source, text: str, place: Path, wanted: _Wanted, progress: Progress) -> Images:
    """Decode all images of a source into a folder below `place`, and return them.

    The channels and the type of most files are known only at the end. They are guessed from the first files;
    if the guess turns out wrong, the source is read again.
    """
    total, forms, results = source.count_files(), list[_Form](), list[_Result]()
    members, to_floats = source.members(wanted.size), wanted.values == "float32"
    first = list(islice(members, 16))
    with files.temporary_folder(place / "new") as folder, hide_warnings():
        headers, members = [*read_members(first, read_header)], chain(first, members)
        while (form := _choose_form(headers, wanted)) not in forms:
            forms, results = [*forms, form], []
            with (folder / _PIXELS).open("wb") as file:
                for done, result in enumerate(_decode_in_threads(members, form, to_floats), 1):
                    if result.pixels is not None:
                        file.write(result.pixels.tobytes())
                    results.append(replace(result, pixels=None))
                    progress("reading images", done, max(done, total))
            headers = [result.header for result in results if result.header]
            members = source.members(wanted.size)
        images = [result for result in results if not result.reason]
        rejects = sorted((each.name, each.reason) for each in results if each.reason not in ("", OTHER))
        if not images:
            why = "the first, {!r}: {}".format(*rejects[0]) if rejects else f"give {', '.join(FORMATS)}"
            raise UserError(f"{text!r} contains no image that can be used; {len(rejects)} refused; {why}")
        found = _publish(source, place, folder, images, forms[-1])
    skipped = len(results) - len(images) - len(rejects)
    return replace(found, rejects=tuple(Reject(*entry) for entry in rejects), skipped=skipped)


def _choose_form(headers: Sequence[Header], wanted: _Wanted) -> _Form:
    """Return the form that most images have, unless the user wants another."""
    counts = Counter(header.channels for header in headers)
    # RGB wins a tie: it represents gray images without loss, and transparency is seldom intended.
    usual = max((3, 4, 1, *sorted(counts)), key=lambda number: counts[number])
    types = Counter(header.values for header in headers)
    kind = max(get_args(ValueType), key=lambda kind: types[kind])
    return wanted.size, wanted.channels or usual, kind if wanted.values == "auto" else wanted.values


def _decode_in_threads(members: Iterable[Member | Reject], form: _Form, to_floats: bool) -> Iterator[_Result]:
    """Yield the result of each member in the order of the source; only a few are in memory together."""
    threads = min(os.cpu_count() or 1, 8)
    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for member in members:
            waiting.append(pool.submit(_decode, member, form, to_floats))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _decode(member: Member | Reject, form: _Form, to_floats: bool) -> _Result:
    if isinstance(member, Reject):
        return _Result(member.name, reason=member.reason)
    data, shape = member.data, ""
    if isinstance(data, np.ndarray):
        data, shape = data.tobytes(), f"{data.dtype} {data.shape} "
    result = _Result(member.name, member.label, shape + hashlib.sha256(data).hexdigest())
    try:
        image = decode_image(member.data, *form, to_floats=to_floats)
    except UnusableError as error:
        return replace(result, header=error.header, reason=str(error))
    return replace(result, header=image.header, pixels=image.pixels, ends=image.ends)


# The folder of a data set


def _publish(source: Source, place: Path, folder: Path, images: Sequence[_Result], form: _Form) -> Images:
    """Sort the images by name, write their index, rename the folder, and return the images in it."""
    order = sorted(range(len(images)), key=lambda number: images[number].name)
    images, (size, channels, kind) = [images[number] for number in order], form
    names = [image.name for image in images]
    classes, labels = find_classes(names, [image.label for image in images], source.class_names)
    content = [names, [image.digest for image in images], classes, labels, source.official]
    fingerprint = files.hash_json([VERSION, form, content])
    shape = len(images), *size, channels
    lows, highs = zip(*(image.ends for image in images), strict=True)
    range_ = choose_range(min(lows), max(highs)) if kind == "float32" else (0.0, LARGEST[kind])
    _sort_pixels(np.memmap(folder / _PIXELS, kind, "r", shape=shape), order, folder / _PIXELS)
    index = {
        "fingerprint": fingerprint,
        "official": source.official,
        "names": names,
        "classes": classes,
        "labels": labels,
        "shape": shape,
        "values": asdict(Values(kind, *range_)),
        "originals": [astuple(image.header) for image in images if image.header],
        "sha256": files.hash_file(folder / _PIXELS),
    }
    files.write_sealed(folder / _INDEX, index)
    final = place / fingerprint[:32]
    with files.lock_folder(place, wait=-1):  # another source may have the same images
        with suppress(OSError, ValueError):
            return _read(final)
        if final.exists():
            warn_user(f"the cache folder {final} was damaged, so the images were decoded again")
            shutil.rmtree(final)
        files.publish_folder(folder, final)
    return _read(final)


def _sort_pixels(pixels: np.ndarray, order: Sequence[int], path: Path) -> None:
    """Write pixels to a file in another order."""
    if list(order) != sorted(order):
        sorted_path = path.with_suffix(".sorted")
        with sorted_path.open("wb") as file:
            for number in order:
                file.write(pixels[number].tobytes())
        sorted_path.replace(path)


def open_decoded(fingerprint: str) -> Images | None:
    """Return the images with this fingerprint if they are cached, else None; their source may be gone."""
    with suppress(OSError, ValueError):
        return _read(files.cache_folder() / "images" / fingerprint[:32])
    return None


def _read(folder: Path) -> Images:
    """Return the images in a folder of the cache.

    Raises:
        UserError: if the folder is missing or damaged.
        OSError: if it cannot be read.
    """
    index = files.read_sealed(folder / _INDEX)
    state = (folder / _PIXELS).stat()
    if _hash_once(folder / _PIXELS, state.st_mtime_ns, state.st_ino) != index["sha256"]:
        raise UserError(f"{folder / _PIXELS} is damaged")
    names, labels, values = tuple(index["names"]), index["labels"], Values(**index["values"])
    train = np.array([name.startswith("train/") for name in names])
    return Images(
        pixels=np.memmap(folder / _PIXELS, values.type, "r", shape=tuple(index["shape"])),
        labels=None if labels is None else np.array(labels, np.int64),
        classes=tuple(index["classes"]),
        names=names,
        fingerprint=index["fingerprint"],
        official=(np.flatnonzero(train), np.flatnonzero(~train)) if index["official"] else None,
        folder=folder,
        values=values,
    )


def read_headers(images: Images) -> list[Header]:
    """Return the headers (N,) of the original images; [] if the images are not cached."""
    entries = files.read_sealed(images.folder / _INDEX)["originals"] if images.folder else []
    return [Header(*entry) for entry in entries]


@lru_cache(maxsize=64)
def _hash_once(path: Path, time: int, inode: int) -> str:
    """Return the SHA-256 of a file; a process reads it once, unless it is written again."""
    return files.hash_file(path)
