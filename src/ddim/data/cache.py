"""Decode the images of a source once, and keep them in the user's cache folder.

A data set is a folder with the pixels, a memory map, and a sealed index. It is written under a temporary name
and renamed once. Its name depends on the contents of the files, not on their path. A small note for each
source says which folder holds its images, as long as its files do not change.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field, replace
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock

from ddim.data.decode import (
    FORMATS,
    VERSION,
    Decoded,
    Header,
    UnusableError,
    decode_image,
    hide_warnings,
    read_header,
)
from ddim.data.images import Images
from ddim.data.labels import find_classes
from ddim.data.sources import OTHER, Member, Reject, Source
from ddim.data.values import AS_FILES_SAY, LARGEST, Reading, Values, ValueType, choose_range
from ddim.errors import UserError, explain_error, warn_user
from ddim.files import (
    cache_folder,
    hash_file,
    make_folder,
    publish_folder,
    read_sealed,
    temporary_folder,
    write_sealed,
)

_INDEX, _PIXELS = "index.json", "pixels.npy"


def load_images(
    source: Source,
    text: str,
    size: tuple[int, int],
    channels: int | None = None,
    *,
    reading: Reading = AS_FILES_SAY,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Images:
    """Return the images of a source from the cache; decode them first if they are not there, or damaged.

    Args:
        source: the source.
        text: the name of the source that the user gave, for messages.
        size: as in `open_images`, and so are the other arguments.
        channels: as in `open_images`.
        reading: as in `open_images`.
        cache: as in `open_images`.
        progress: as in `open_images`.

    Raises:
        UserError: if no image can be used, or the cache folder cannot be written.
        NoSpace: if the disk is full.
    """
    root, stamp = cache_folder(cache), source.stamp()
    # Which formats can be read depends on packages too.
    packages = [bool(find_spec(name)) for name in ("pillow_heif", "tifffile", "imagecodecs")]
    key = _hash([VERSION, packages, stamp, size, channels, reading.values])
    path = root / "stamps" / f"{key}.json"
    images = _follow_note(path) if stamp else None
    if images is None:
        with _explain_writing(root):
            make_folder(path.parent)
            # The lock lets a second process wait for the first one, in place of decoding the images too.
            with FileLock(path.with_suffix(".lock")):
                images = _follow_note(path) if stamp else None
                if images is None:
                    note = _build(source, text, root, size, channels, reading, progress)
                    if stamp and source.stamp() == stamp:
                        write_sealed(path, note)
                    images = _open_folder(root, note)
    if images is None:
        raise UserError(f"the cache folder {root} cannot be read: set DDIM_CACHE to another folder")
    return replace(images, values=reading.limit(images.values, images.ends))


def _follow_note(path: Path) -> Images | None:
    """Return the images that a note names; None if there is no note, or its folder is gone or damaged."""
    try:
        return _open_folder(path.parents[1], read_sealed(path))
    except UserError:
        return None


def _open_folder(root: Path, note: Mapping[str, Any]) -> Images | None:
    images = _read(root / note["folder"])
    rejects = tuple(Reject(*entry) for entry in note["rejects"])
    return images and replace(images, rejects=rejects, skipped=note["skipped"])


# Decoding


@dataclass(frozen=True)
class _Form:
    """The form in which all images are stored: the arguments of `decode_image`."""

    size: tuple[int, int]
    channels: int
    kind: ValueType
    to_floats: bool


@dataclass(frozen=True)
class _Result:
    """What came of a member of a source.

    Attributes:
        name: its name.
        label: its label.
        digest: the SHA-256 (hex) of its data; "" for a file that is no image.
        header: its header; None if it cannot be read.
        decoded: the decoded image; None if it cannot be used.
        reason: the reason why it cannot be used.
    """

    name: str
    label: str | int | None = None
    digest: str = ""
    header: Header | None = None
    decoded: Decoded | None = None
    reason: str = ""


@dataclass
class _Pass:
    """What one pass over the members of a source found.

    Attributes:
        images: the images that can be used, in the order of the source, without their pixels.
        rejects: the members that cannot be used.
        others: number of files that are not images.
        headers: all headers that can be read.
        range: the smallest and the largest value of all images of floats before they are cropped.
        ends: the smallest and the largest value of all decoded pixels.
    """

    images: list[_Result] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    others: int = 0
    headers: list[Header] = field(default_factory=list)
    range: tuple[float, float] = (math.inf, -math.inf)
    ends: tuple[float, float] = (math.inf, -math.inf)


def _build(
    source: Source,
    text: str,
    root: Path,
    size: tuple[int, int],
    channels: int | None,
    reading: Reading,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """Decode all images of a source into a folder of the cache, and return the note about this source.

    The channels and the type of most files are known only at the end. They are guessed from the first files;
    if the guess turns out wrong, the source is read again.
    """

    def choose_form(headers: Sequence[Header]) -> _Form:
        counts = Counter(header.channels for header in headers)
        # RGB wins a tie: it represents gray images without loss, and transparency is seldom intended.
        usual = max((3, 4, 1, *sorted(counts)), key=lambda number: counts[number])
        types = Counter(header.values for header in headers)
        kinds: tuple[ValueType, ...] = ("uint8", "uint16", "float32")
        kind = max(kinds, key=lambda kind: types[kind]) if reading.values == "auto" else reading.values
        return _Form(size, channels or usual, kind, to_floats=reading.values == "float32")

    members = source.members(size)
    first = list(islice(members, 16))
    form, members = choose_form(_read_headers(first)), chain(first, members)
    total = source.count_files()

    def tell(done: int) -> None:
        if progress:
            progress(done, max(done, total))

    while True:
        with temporary_folder(root / "images") as folder:
            found = _decode_all(members, folder / _PIXELS, form, tell)
            if found.headers and (usual := choose_form(found.headers)) != form:
                form, members = usual, source.members(size)
                continue
            if not found.images:
                raise UserError(_explain_nothing(text, found.rejects))
            return {
                "folder": _publish(source, root, folder, found, form),
                "rejects": sorted((reject.name, reject.reason) for reject in found.rejects),
                "skipped": found.others,
            }


def _read_headers(members: Sequence[Member | Reject]) -> list[Header]:
    headers = []
    with hide_warnings():
        for member in members:
            if isinstance(member, Member):
                with suppress(UnusableError):
                    headers.append(read_header(member.data))
    return headers


def _decode_all(
    members: Iterable[Member | Reject], path: Path, form: _Form, tell: Callable[[int], None]
) -> _Pass:
    """Write the pixels of all usable images to a .npy file, in the order of the source."""
    found = _Pass()
    with path.open("wb") as file, hide_warnings():
        _write_header(file, 0, form)
        for done, result in enumerate(_decode_in_threads(members, form), 1):
            if result.header:
                found.headers.append(result.header)
            if image := result.decoded:
                file.write(image.pixels.tobytes())
                found.images.append(replace(result, decoded=None))
                found.range = min(found.range[0], image.low), max(found.range[1], image.high)
                low, high = float(image.pixels.min()), float(image.pixels.max())
                found.ends = min(found.ends[0], low), max(found.ends[1], high)
            elif result.reason == OTHER:
                found.others += 1
            else:
                found.rejects.append(Reject(result.name, result.reason))
            tell(done)
        # NumPy pads the header, so that it keeps its length with any number of images.
        file.seek(0)
        _write_header(file, len(found.images), form)
        file.flush()
        os.fsync(file.fileno())
    return found


def _write_header(file: IO[bytes], count: int, form: _Form) -> None:
    shape = (count, *form.size, form.channels)
    described = {"descr": np.dtype(form.kind).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)


def _decode_in_threads(members: Iterable[Member | Reject], form: _Form) -> Iterator[_Result]:
    """Yield the result of each member in the order of the source; only a few are in memory together."""
    threads = min(os.cpu_count() or 1, 8)
    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for member in members:
            waiting.append(pool.submit(_decode, member, form))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _decode(member: Member | Reject, form: _Form) -> _Result:
    if isinstance(member, Reject):
        return _Result(member.name, reason=member.reason)
    data = member.data
    if isinstance(data, np.ndarray):
        digest = f"{data.dtype} {data.shape} {hashlib.sha256(data.tobytes()).hexdigest()}"
    else:
        digest = hashlib.sha256(data).hexdigest()
    result = _Result(member.name, member.label, digest)
    try:
        image = decode_image(data, form.size, form.channels, form.kind, to_floats=form.to_floats)
    except UnusableError as error:
        return replace(result, header=error.header, reason=str(error))
    return replace(result, header=image.header, decoded=image)


def _explain_nothing(text: str, rejects: Sequence[Reject]) -> str:
    if not rejects:
        return f"{text!r} contains no image: give {', '.join(FORMATS)} files"
    first = min(rejects, key=lambda reject: reject.name)
    return (
        f"{text!r} contains no image that can be used: {len(rejects)} files were refused, "
        f"the first, {first.name!r}, because: {first.reason}"
    )


# The folder of a data set


def _publish(source: Source, root: Path, folder: Path, found: _Pass, form: _Form) -> str:
    """Sort the images by name, write their index, rename the folder, and return its final name."""
    order = sorted(range(len(found.images)), key=lambda place: found.images[place].name)
    if order != list(range(len(order))):
        _sort_pixels(folder / _PIXELS, order)
    images = [found.images[place] for place in order]
    names = [image.name for image in images]
    classes, labels = find_classes(names, [image.label for image in images], source.class_names)
    content = [names, [image.digest for image in images], classes, labels, source.official]
    fingerprint = _hash([VERSION, astuple(form)[:3], content])
    ends = choose_range(*found.range) if form.kind == "float32" else (0.0, LARGEST[form.kind])
    index = {
        "fingerprint": fingerprint,
        "official": source.official,
        "names": names,
        "classes": classes,
        "labels": labels,
        "values": Values(form.kind, *ends).to_json(),
        "ends": found.ends,
        "originals": [astuple(image.header) for image in images if image.header],
        "sha256": hash_file(folder / _PIXELS),
    }
    write_sealed(folder / _INDEX, index)
    final = root / _name_folder(fingerprint, form)
    # Another source may have the same images.
    if _read(final) is None:
        if final.exists():
            warn_user(f"the cache folder {final} was damaged, so the images were decoded again")
            shutil.rmtree(final)
        publish_folder(folder, final)
    return final.name


def _sort_pixels(path: Path, order: Sequence[int]) -> None:
    pixels = np.lib.format.open_memmap(path, "r")
    sorted_path = path.with_suffix(".sorted")
    result = np.lib.format.open_memmap(sorted_path, "w+", pixels.dtype, pixels.shape)
    for start in range(0, len(order), 256):
        result[start : start + 256] = pixels[order[start : start + 256]]
    result.flush()
    sorted_path.replace(path)


def _name_folder(fingerprint: str, form: _Form) -> str:
    """Return the name of the folder of images; see also `cache_contents`."""
    deep = {"uint8": "", "uint16": "-u16", "float32": "-f32"}[form.kind]
    return f"{fingerprint[:32]}-{form.size[0]}x{form.size[1]}x{form.channels}{deep}"


def open_decoded(fingerprint: str, size: tuple[int, int]) -> Images | None:
    """Return the images with this fingerprint if they are cached, else None; their source may be gone."""
    folders = cache_folder().glob(f"{fingerprint[:32]}-{size[0]}x{size[1]}x*")
    found = (images for images in map(_read, folders) if images and images.fingerprint == fingerprint)
    return next(found, None)


def _read(folder: Path) -> Images | None:
    """Return the images in a folder of the cache; None if the folder is missing or damaged."""
    try:
        index = read_sealed(folder / _INDEX)
        if hash_file(folder / _PIXELS) != index["sha256"]:
            return None
        pixels = np.lib.format.open_memmap(folder / _PIXELS, "r")
    except (OSError, ValueError):  # UserError is a ValueError
        return None
    names, labels = tuple(index["names"]), index["labels"]
    train = np.array([name.startswith("train/") for name in names])
    return Images(
        pixels=pixels,
        labels=None if labels is None else np.array(labels, np.int64),
        classes=tuple(index["classes"]),
        names=names,
        fingerprint=index["fingerprint"],
        official=(np.flatnonzero(train), np.flatnonzero(~train)) if index["official"] else None,
        folder=folder,
        values=Values(**index["values"]),
        ends=tuple(index["ends"]),
    )


def read_headers(images: Images) -> list[Header]:
    """Return the headers (N,) of the original images; [] if the images are not cached."""
    if images.folder is None:
        return []
    return [Header(*entry) for entry in read_sealed(images.folder / _INDEX)["originals"]]


def find_enlarged(images: Images) -> list[Header]:
    """Return the headers of the original images that are smaller than the images in height or width."""
    _, height, width, _ = images.pixels.shape
    return [header for header in read_headers(images) if header.height < height or header.width < width]


@contextmanager
def _explain_writing(root: Path) -> Generator[None]:
    """Turn an OSError of the block into an error for users about the cache folder `root`."""
    try:
        yield
    except OSError as error:
        what = f"the cache folder {str(root)!r} cannot be written"
        raise explain_error(error, what, "set DDIM_CACHE to a folder that can be written") from None


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
