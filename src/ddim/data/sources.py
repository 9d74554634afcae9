"""Sources of images before decoding: files of a folder, an archive or parquet files, as a stream of members.

Archives are read in place; nothing is extracted. In parquet files, Hugging Face stores data sets: a column
holds images, and another one may hold labels. They need the extra `parquet`.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, groupby, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from ddim.data.decode import UnusableError, hide_warnings, is_image_name
from ddim.data.labels import LABEL_SUFFIXES, read_label
from ddim.errors import UserError, explain_errors

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

T = TypeVar("T")
SUFFIX = ".parquet"
OTHER = "not an image"
"""The reason in the `Reject` of a file that is not an image, such as a text. Such files are only counted."""

_IMAGES, _LABELS = ("image", "img", "bytes"), ("label", "labels", "class", "cls")
# In seconds, and longer than the resolution of file times on common file systems. If a file older than this
# changes again, its times change too.
_CLOCK_TICK = 2.0
_SUFFIX_PARTS = re.compile(r"\.[^/]*\Z")
# RuntimeError is raised for encrypted archives, NotImplementedError for unknown methods of compression.
_DAMAGED = (OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)


@dataclass(frozen=True)
class Member:
    """One image of a source.

    Attributes:
        name: its name in the source, with "/" between folders.
        data: an encoded image file, or pixels (H, W, C) of uint8, uint16 or float32.
        label: the name or the index of its class, if the source stores labels apart from names.
    """

    name: str
    data: bytes | np.ndarray
    label: str | int | None = None


@dataclass(frozen=True)
class Reject:
    """A file that cannot be used, and the reason."""

    name: str
    reason: str


def read_members(members: Iterable[Member | Reject], read: Callable[[bytes | np.ndarray], T]) -> Iterator[T]:
    """Yield what `read` returns for each image that can be read; it raises `UnusableError` for the others."""
    for member in members:
        if isinstance(member, Member):
            with suppress(UnusableError):
                with hide_warnings():
                    found = read(member.data)
                yield found


class Source(Protocol):
    """A stream of images that can be read any number of times.

    A class that inherits from this class needs only `stamp` and `members`.

    Attributes:
        official: whether the source defines a split; then the names of training images begin with "train/".
        class_names: the names of the classes 0, 1, ... of labels that are integers.
    """

    official: bool = False
    class_names: Sequence[str] = ()

    def stamp(self) -> str:
        """Return a text that changes if the files may have changed; "" if changes cannot be detected."""

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Yield every file of the source; `size` (height, width) matters only for generated images."""

    def count_files(self) -> int:
        """Return the number of files that `members` yields; 0 if it is unknown before they are read."""
        return 0


@dataclass(frozen=True)
class Folder(Source):
    """All images below a folder, sorted by path.

    Links to files, and links to folders outside this folder, are followed.
    """

    path: Path

    def stamp(self) -> str:
        """Return the paths, sizes and timestamps of all files; see `Source`."""
        return stamp_paths(*(self.path / name for name in sorted(self._list_files())))

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Yield the files, sorted by path; a file that cannot be read becomes a `Reject`."""
        for name, fault in sorted(self._list_files().items()):
            path = self.path / name
            try:
                if fault or (path.exists() and not path.is_file()):  # reading a pipe would wait for ever
                    yield Reject(name, fault or "not a regular file")
                else:
                    with path.open("rb") as file:
                        yield _read_member(name, file)
            except OSError as error:
                yield Reject(name, f"cannot be read: {error.strerror}")

    def count_files(self) -> int:
        """Return the number of files; see `Source`."""
        return len(self._list_files())

    def _list_files(self) -> dict[str, str]:
        """Return "" keyed by the name of each file, and reasons keyed by the folders that are not read."""
        top, root = os.path.join(self.path, ""), os.path.realpath(self.path)
        found, seen = {}, {root}

        def refuse(error: OSError) -> None:
            found[error.filename] = f"a folder that cannot be read: {error.strerror}"

        for place, folders, files in os.walk(top, onerror=refuse, followlinks=True):
            found |= {os.path.join(place, file): "" for file in files}
            for link in filter(os.path.islink, [os.path.join(place, folder) for folder in folders]):
                real = os.path.realpath(link)
                # A link to a folder inside this one adds no files, and following one to a parent never ends.
                if real in seen or Path(real).is_relative_to(root) or Path(root).is_relative_to(real):
                    found[link] = "a link to a folder that is already read"
                    folders.remove(os.path.basename(link))
                seen.add(real)
        return {path.removeprefix(top).replace(os.sep, "/"): fault for path, fault in found.items()}


@dataclass(frozen=True)
class Archive(Source):
    """All images in a zip file, sorted by path, or in a tar file, in its order.

    The images of a tar file are not sorted, because a compressed stream has no random access. As in
    WebDataset, a file KEY.cls or KEY.json beside KEY.jpg in a tar file names the class of the image.
    """

    path: Path

    def stamp(self) -> str:
        """Return the path, size and timestamps of the archive; see `Source`."""
        return stamp_paths(self.path)

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Yield the files; one that cannot be read becomes a `Reject`, and so does the rest after damage."""
        # Files of one key, the path up to the first dot of its last part, follow each other. At most 32 are
        # in memory together; without a limit, all files from scan.0001.png to scan.9999.png would be.
        for _, group in groupby(self._read(), key=lambda file: _SUFFIX_PARTS.sub("", file.name)):
            while files := list(islice(group, 32)):
                labels = (file.label for file in files if isinstance(file, _LabelFile))
                label = next(filter(None, labels), None)
                for file in files:
                    yield file if isinstance(file, Reject) else replace(file, label=label)

    def _read(self) -> Iterator[Member | Reject]:
        try:
            yield from (_read_zip if zipfile.is_zipfile(self.path) else _read_tar)(self.path)
        except _DAMAGED as error:
            yield Reject(self.path.name, f"the archive is damaged and cannot be read further: {error}")


def is_archive(path: Path) -> bool:
    """Return whether a path is a zip or tar file."""
    with suppress(EOFError, zlib.error, lzma.LZMAError):  # a damaged tar file
        return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))
    return False


def _read_zip(path: Path) -> Iterator[Member | Reject]:
    with zipfile.ZipFile(path) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            try:
                if not info.is_dir():
                    with archive.open(info) as file:
                        yield _read_member(info.filename, file)
            except _DAMAGED as error:
                yield Reject(info.filename, f"cannot be unpacked: {error}")


def _read_tar(path: Path) -> Iterator[Member | Reject]:
    with tarfile.open(path) as archive:
        while info := archive.next():
            # Else every header would stay in memory.
            archive.members.clear()  # pyrefly: ignore[missing-attribute]
            name = info.name.removeprefix("./")
            file = archive.extractfile(info) if info.isreg() else None
            if file and name.lower().endswith(LABEL_SUFFIXES) and info.size < 2**20:
                yield _LabelFile(name, OTHER, read_label(name, file.read()))
            elif file:
                yield _read_member(name, file)
            elif not info.isdir():
                yield Reject(name, "a link, or not a regular file")
        # tarfile takes a damaged header for the end of the archive.
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError("a damaged header")


@dataclass(frozen=True)
class _LabelFile(Reject):
    label: str | None


def _read_member(name: str, file: IO[bytes]) -> Member | Reject:
    """Return the image in an open file; of other files, only the first bytes are read."""
    if any((part[:1] == "." and part not in (".", "..")) or part == "__MACOSX" for part in name.split("/")):
        return Reject(name, OTHER)
    head = file.read(16)
    return Member(name, head + file.read()) if is_image_name(name, head) else Reject(name, OTHER)


def stamp_paths(*paths: Path) -> str:
    """Return a text with the paths, sizes and timestamps of files and folders.

    The text is "" if a file or folder changed in the last two seconds: another change now might not change
    its timestamps.
    """
    lines, now = [], time.time()
    for path in map(os.path.abspath, paths):
        try:
            found = os.stat(path)
        except OSError as error:
            lines.append(f"{path}\0{error.strerror}")
            continue
        if now - _CLOCK_TICK < max(found.st_mtime, found.st_ctime) <= now:
            return ""
        # ctime changes even if a file is replaced by one with the same size and mtime.
        lines.append(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}")
    return "\n".join(lines)


# Parquet files


def find_parquet(path: Path) -> tuple[Path, ...]:
    """Return the parquet files of a source: the file itself, or all below a folder that holds no images."""
    files = [path] if path.is_file() else path.rglob("*")
    if path.is_dir() and any(is_image_name(file.name, b"") for file in path.rglob("*")):
        return ()
    return tuple(sorted(file for file in files if file.name.lower().endswith(SUFFIX)))


@dataclass(frozen=True)
class Parquet(Source):
    """The images of parquet files, named by the number of their row, with the labels that the files have."""

    files: tuple[Path, ...]

    def stamp(self) -> str:
        """Return the paths, sizes and timestamps of the files; see `Source`."""
        return stamp_paths(*self.files)

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Yield the image of each row; see `Source`.

        Raises:
            UserError: if a file cannot be read, or has no column of images.
        """
        rows = chain.from_iterable(map(_read_rows, self.files))
        for number, (cell, label) in enumerate(rows):
            name, image = f"{number:09d}", cell.get("bytes") if isinstance(cell, dict) else cell
            if not isinstance(image, bytes):
                yield Reject(name, "holds no bytes of an image")
            elif isinstance(label, int) and not 0 <= label < 10**6:  # Hugging Face writes -1 for unknown.
                yield Reject(name, f"its label {label} is no class index")
            else:
                yield Member(name, image, label if isinstance(label, str | int) else None)

    @cached_property
    def class_names(self) -> Sequence[str]:
        """The names of the classes 0, 1, ... that Hugging Face stores in the first file, or ()."""
        with _open_file(self.files[0]) as file:
            stored = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
            label = _find_column(file.schema_arrow.names, _LABELS)
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            return tuple(map(str, json.loads(stored)["info"]["features"][label]["names"]))
        return ()


def _read_rows(path: Path) -> Iterator[tuple[Any, Any]]:
    """Yield the image and the label of each row; the label is None if there is no column of labels."""
    with _open_file(path) as file:
        # An image is binary, or a structure with a binary field, such as struct<bytes: binary, path: string>.
        binary = [field.name for field in file.schema_arrow if "binary" in str(field.type)]
        image = _find_column(binary, _IMAGES) or (binary[0] if len(binary) == 1 else None)
        if image is None:
            names = ", ".join(file.schema_arrow.names[:20])
            raise UserError(f"{path} needs a column 'image' with the bytes of image files, got {names}")
        label = _find_column(file.schema_arrow.names, _LABELS)
        # Only 16 rows are read together: each may be a photograph of many megabytes.
        for batch in file.iter_batches(16, columns=[image, label] if label else [image]):
            for row in batch.to_pylist():
                yield row[image], row.get(label)


@contextmanager
def _open_file(path: Path) -> Generator[ParquetFile]:
    """Open a parquet file for a block, and explain the errors of reading it.

    Raises:
        UserError: if the file cannot be read, or the package `pyarrow` is missing.
    """
    with explain_errors(f"{path} needs pyarrow", 'pip install "ddim[parquet]"', ImportError):
        import pyarrow.parquet
    fault, kinds = f"{path} cannot be read as a parquet file", (pyarrow.ArrowException, OSError)
    with explain_errors(fault, kind=kinds), pyarrow.parquet.ParquetFile(path) as file:
        yield file


def _find_column(names: Sequence[str], known: Sequence[str]) -> str | None:
    return next((name for name in known if name in names), None)
