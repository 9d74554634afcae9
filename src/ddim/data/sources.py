"""Sources of images before decoding: the files of a folder, a .zip or a .tar, as a stream of members.

Archives are read in place; nothing is extracted.
"""

from __future__ import annotations

import lzma
import os
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from ddim.data.decode import is_image_name
from ddim.data.labels import LABEL_SUFFIXES, read_label
from ddim.errors import UserError

OTHER = "not an image"
"""The reason in the `Reject` of a file that is not an image, such as a text. Such files are only counted."""

# In seconds, and longer than the resolution of file times on common file systems. If a file older than this
# changes again, its times change too.
_CLOCK_TICK = 2.0
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


def open_path(path: Path) -> Source:
    """Return the source for a folder or an archive.

    Raises:
        UserError: if the path is not a folder or an archive, or cannot be read.
    """
    try:
        if path.is_dir():
            return Folder(path)
        if path.is_file() and zipfile.is_zipfile(path):
            return Zip(path)
        if path.is_file() and tarfile.is_tarfile(path):
            return Tar(path)
    except _DAMAGED as error:
        raise UserError(f"{str(path)!r} cannot be read: {error}") from None
    if is_image_name(path.name, b""):
        raise UserError(f"{str(path)!r} is one image: give a folder of images, such as {str(path.parent)!r}")
    raise UserError(f"{str(path)!r} is not an archive: give a folder, a .zip or a .tar[.gz|.xz]")


@dataclass(frozen=True)
class Folder(Source):
    """All images below a folder, sorted by path.

    Links to files, and links to folders outside this folder, are followed.
    """

    path: Path

    def stamp(self) -> str:
        """Return the path of the folder, and the names, sizes and timestamps of all files; see `Source`."""
        files = _stamp((name, self.path / name) for name, _ in self._list_files())
        return files and f"{self.path.resolve()}\n{files}"

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Yield the files, sorted by path; a file that cannot be read becomes a `Reject`."""
        for name, fault in self._list_files():
            yield Reject(name, fault) if fault else self._read(name)

    def count_files(self) -> int:
        """Return the number of files; see `Source`."""
        return len(self._list_files())

    def list_names(self) -> list[str]:
        """Return the names of all files, sorted."""
        return [name for name, _ in self._list_files()]

    def _read(self, name: str) -> Member | Reject:
        path = self.path / name
        try:
            if path.exists() and not path.is_file():
                return Reject(name, "not a regular file")  # reading a pipe would wait for ever
            with path.open("rb") as file:
                return _read_member(name, file)
        except OSError as error:
            return Reject(name, f"cannot be read: {error.strerror}")

    def _list_files(self) -> list[tuple[str, str]]:
        """Return a pair for each file, sorted by name: (name, ""), or (name, reason) for what is not read."""
        found: list[tuple[str, str]] = []
        root = os.path.realpath(self.path)
        seen = {root}

        def relative(path: str) -> str:
            return Path(os.path.relpath(path, self.path)).as_posix()

        def refuse(error: OSError) -> None:
            found.append((relative(error.filename), f"a folder that cannot be read: {error.strerror}"))

        for place, folders, files in os.walk(self.path, onerror=refuse, followlinks=True):
            prefix = "" if place == str(self.path) else f"{relative(place)}/"
            found += [(prefix + file, "") for file in files]
            for folder in filter(os.path.islink, [os.path.join(place, folder) for folder in folders]):
                real = os.path.realpath(folder)
                # A link to a folder inside this one adds no files, and following one to a parent never ends.
                if real in seen or Path(real).is_relative_to(root) or Path(root).is_relative_to(real):
                    found.append((relative(folder), "a link to a folder that is already read"))
                    folders.remove(os.path.basename(folder))
                seen.add(real)
        return sorted(found)


@dataclass(frozen=True)
class Zip(Source):
    """All images in a zip file, sorted by path."""

    path: Path

    def stamp(self) -> str:
        """Return the path, size and timestamps of the archive; see `Source`."""
        return stamp_paths(self.path)

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Yield the files, sorted by path; a file that cannot be read becomes a `Reject`.

        Raises:
            UserError: if the archive cannot be opened.
        """
        try:
            archive = zipfile.ZipFile(self.path)
        except _DAMAGED as error:
            raise UserError(f"{str(self.path)!r} cannot be opened as a zip file: {error}") from None
        with archive:
            for info in sorted(archive.infolist(), key=lambda info: info.filename):
                if not info.is_dir():
                    yield self._read(archive, info)

    @staticmethod
    def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member | Reject:
        try:
            with archive.open(info) as file:
                return _read_member(info.filename, file)
        except _DAMAGED as error:
            return Reject(info.filename, f"cannot be unpacked: {error}")


@dataclass(frozen=True)
class Tar(Source):
    """All images in a tar file, in the order of the archive.

    The images are not sorted, because a compressed stream has no random access. As in WebDataset, a file
    KEY.cls or KEY.json beside KEY.jpg names the class of the image.
    """

    path: Path

    def stamp(self) -> str:
        """Return the path, size and timestamps of the archive; see `Source`."""
        return stamp_paths(self.path)

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Yield the files in the order of the archive.

        A file that cannot be read becomes a `Reject`, and so does the rest of a damaged archive.
        """
        # Files of one key follow each other. At most 32 are in memory together; without a limit, all files
        # from scan.0001.png to scan.9999.png would be.
        for _, group in groupby(self._read(), key=lambda file: _find_key(file.name)):
            while files := list(islice(group, 32)):
                labels = [read_label(f.name, f.data) for f in files if isinstance(f, _LabelFile)]
                label = next((text for text in labels if text), None)
                for file in files:
                    if isinstance(file, _LabelFile):
                        yield Reject(file.name, OTHER)
                    else:
                        yield file if isinstance(file, Reject) else replace(file, label=label)

    def _read(self) -> Iterator[Member | Reject | _LabelFile]:
        try:
            with tarfile.open(self.path) as archive:
                while info := archive.next():
                    # Else every header would stay in memory.
                    archive.members.clear()  # pyrefly: ignore[missing-attribute]
                    name = info.name.removeprefix("./")
                    file = archive.extractfile(info) if info.isreg() else None
                    if file is None:
                        if not info.isdir():
                            yield Reject(name, "a link, or not a regular file")
                    elif name.lower().endswith(LABEL_SUFFIXES) and info.size < 2**20:
                        yield _LabelFile(name, file.read())
                    else:
                        yield _read_member(name, file)
                # tarfile takes a damaged header for the end of the archive.
                archive.fileobj.seek(archive.offset)
                if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
                    raise tarfile.ReadError("a damaged header")
        except _DAMAGED as error:
            yield Reject(self.path.name, f"the archive is damaged and cannot be read further: {error}")


@dataclass(frozen=True)
class _LabelFile:
    name: str
    data: bytes


def _find_key(name: str) -> str:
    """Return the path of a file up to the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _read_member(name: str, file: IO[bytes]) -> Member | Reject:
    """Return the image in an open file; of other files, only the first bytes are read."""
    if any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in name.split("/")):
        return Reject(name, OTHER)
    head = file.read(16)
    return Member(name, head + file.read()) if is_image_name(name, head) else Reject(name, OTHER)


def stamp_paths(*paths: Path) -> str:
    """Return a text with the paths, sizes and timestamps of files and folders.

    The text is "" if a file or folder changed in the last two seconds: another change now might not change
    its timestamps.
    """
    return _stamp((str(path.resolve()), path) for path in paths)


def _stamp(paths: Iterable[tuple[str, Path]]) -> str:
    lines, youngest = [], time.time() - _CLOCK_TICK
    for name, path in paths:
        try:
            found = path.stat()
        except OSError as error:
            lines.append(f"{name}\0{error.strerror}")
            continue
        if max(found.st_mtime, found.st_ctime) > youngest:
            return ""
        # ctime changes even if a file is replaced by one with the same size and mtime.
        lines.append(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}")
    return "\n".join(lines)
