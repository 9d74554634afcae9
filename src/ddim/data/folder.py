"""Sources of the image files in a folder, a .zip or a .tar[.gz|.xz|.bz2].

Archives are not extracted to the disk.
"""

from __future__ import annotations

import errno
import os
import stat
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ddim.data.archives import DAMAGED, Allowance, is_tar, open_zip, read_tar
from ddim.data.decode import MAX_BYTES, is_image_name
from ddim.data.label_files import LABEL_SUFFIXES, LARGEST_LABEL, LabelFile, name_classes
from ddim.data.sources import OTHER, Member, Reject, Source, Unreadable, explain_bad_name
from ddim.errors import UserError
from ddim.files import measure_file

# In seconds, and longer than the resolution of file times on common file systems. If a file older than this
# changes again, its times change too.
_CLOCK_TICK = 2.0
_TOO_LARGE = f"larger than {MAX_BYTES >> 20} MiB"


def open_path(path: Path) -> Source:
    """Return the source for a folder or an archive.

    Raises:
        UserError: if the path is not a folder or an archive, or cannot be read.
    """
    try:
        if path.is_dir():
            return Folder(path)
        if not path.exists():
            raise UserError(f"{str(path)!r} does not exist: give a folder, a .zip or a .tar[.gz|.xz]")
        # An empty file may be a file of /proc, and reading it may never end.
        if measure_file(path) and zipfile.is_zipfile(path):
            return Zip(path)
        if measure_file(path) and is_tar(path):
            return Tar(path)
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}") from None
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
        lines = []
        for name, where in self._files():
            if isinstance(where, Reject):
                lines.append(f"{name}\0{where.reason}")
                continue
            try:
                lines.append(f"{name}\0{_times(where)}")
            except OSError as error:
                lines.append(f"{name}\0{error.strerror}")
            except _TooYoungError:
                return ""
        return "\n".join([str(self.path.resolve()), *lines])

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Yield the files, sorted by path; a file that cannot be read becomes a `Reject`."""
        for name, where in self._files():
            yield _read_file(name, where) if isinstance(where, Path) else where

    def count_files(self) -> int:
        """Return the number of files; see `Source`."""
        return len(self._files())

    def list_names(self) -> list[str]:
        """Return the names of all files, sorted."""
        return [name for name, _ in self._files()]

    def _files(self) -> list[tuple[str, Path | Reject]]:
        """Return a pair for each file, sorted by name: (name, path), or (name, reject) if it is not read."""
        found: list[tuple[str, Path | Reject]] = []
        root = os.path.realpath(self.path)
        seen, todo = {root}, [(self.path, "")]
        while todo:
            folder, prefix = todo.pop()
            try:
                entries = list(os.scandir(folder))
            except OSError as error:
                name = prefix.rstrip("/") or "."
                found.append((name, _refuse(name, f"a folder that cannot be read: {error.strerror}", error)))
                continue
            for entry in entries:
                name = prefix + entry.name
                try:
                    is_folder = entry.is_dir()
                except OSError as error:
                    found.append((name, _refuse(name, f"cannot be read: {error.strerror}", error)))
                    continue
                if not is_folder:
                    found.append((name, Path(entry.path)))
                elif not entry.is_symlink():
                    todo.append((Path(entry.path), name + "/"))
                else:
                    # Two kinds of links are left out: a link to a folder inside this one adds no files, and
                    # following a link to a parent folder would never end.
                    real = os.path.realpath(entry.path)
                    if real in seen or Path(real).is_relative_to(root) or Path(root).is_relative_to(real):
                        found.append((name, Reject(name, "a link to a folder that is already read")))
                    else:
                        seen.add(real)
                        todo.append((Path(entry.path), name + "/"))
        return sorted(found, key=lambda item: item[0])


@dataclass(frozen=True)
class Zip(Source):
    """All images in a zip file, sorted by path."""

    path: Path

    def stamp(self) -> str:
        """Return the path, size and timestamps of the archive; see `Source`."""
        return stamp_paths(self.path)

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Yield the files, sorted by path; a file that cannot be read becomes a `Reject`."""
        allowance = Allowance(self.path)
        with open_zip(self.path) as archive:
            for info in sorted(archive.infolist(), key=lambda info: info.filename):
                if not info.filename.endswith("/"):
                    allowance.take(min(info.file_size, MAX_BYTES))
                    yield self._member(archive, info)

    @staticmethod
    def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member | Reject:
        if stat.S_ISLNK(info.external_attr >> 16):
            return Reject(info.filename, "a link")
        try:
            with archive.open(info) as file:
                return _check_member(info.filename, file.read(MAX_BYTES + 1))
        except DAMAGED as error:
            return _refuse(info.filename, f"cannot be unpacked: {error}", error)


@dataclass(frozen=True)
class Tar(Source):
    """All images in a tar file, in the order of the archive.

    The images are not sorted, because a compressed stream has no random access. As in WebDataset, a file
    KEY.cls or KEY.json beside KEY.jpg names the class of the image: the image becomes CLASS/KEY.jpg.
    """

    path: Path

    def stamp(self) -> str:
        """Return the path, size and timestamps of the archive; see `Source`."""
        return stamp_paths(self.path)

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Yield the files in the order of the archive.

        A file that cannot be read becomes a `Reject`, and so does the rest of a damaged archive.
        """
        try:
            yield from name_classes(self._read())
        except UserError:
            raise
        except DAMAGED as error:
            reason = f"the archive is damaged and cannot be read further: {error}"
            yield _refuse(self.path.name, reason, error)

    def _read(self) -> Iterator[Member | Reject | LabelFile]:
        allowance = Allowance(self.path)
        for info, file in read_tar(self.path, allowance):
            if file is None:
                if not info.isdir():
                    link = info.issym() or info.islnk()
                    yield Reject(info.name, "a link" if link else "not a regular file")
            elif info.size > MAX_BYTES:
                yield Reject(info.name, _TOO_LARGE)
            else:
                allowance.take(info.size)
                label = info.name.lower().endswith(LABEL_SUFFIXES) and info.size <= LARGEST_LABEL
                name, content = info.name.removeprefix("./"), file.read()
                yield LabelFile(name, content) if label else _check_member(name, content)


def stamp_paths(*paths: Path) -> str:
    """Return a text with the paths, sizes and timestamps of files and folders.

    The text is "" if a file or folder changed in the last two seconds, or cannot be read.
    """
    try:
        return "\n".join(f"{path.resolve()}\0{_times(path)}" for path in paths)
    except (OSError, _TooYoungError):
        return ""


class _TooYoungError(Exception):
    """Raised if a file was written in the last two seconds.

    Another change now might not change the timestamps of the file.
    """


def _times(path: Path) -> str:
    # ctime changes even if a file is replaced by one with the same size and mtime.
    found = path.stat()
    if max(found.st_mtime, found.st_ctime) > time.time() - _CLOCK_TICK:
        raise _TooYoungError
    return f"{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}"


def _read_file(name: str, path: Path) -> Member | Reject:
    try:
        if not measure_file(path):
            return _check_member(name, b"")
        with path.open("rb") as file:
            head = file.read(16)
            if not is_image_name(name, head):
                return Reject(name, OTHER)
            return _check_member(name, head + file.read(MAX_BYTES + 1 - len(head)))
    except UserError:
        return Reject(name, "not a regular file")
    except OSError as error:
        return _refuse(name, f"cannot be read: {error.strerror}", error)


_PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE)
"""Error numbers of faults that may be temporary.

EACCES is not among them: a permission that is granted later changes the timestamps of the file.
"""


def _refuse(name: str, reason: str, error: Exception) -> Reject:
    """Return an `Unreadable` of this file if the error may be temporary, else a `Reject`."""
    passing = isinstance(error, OSError) and error.errno in _PASSING
    return Unreadable(name, reason) if passing else Reject(name, reason)


def _check_member(name: str, data: bytes) -> Member | Reject:
    name = name.removeprefix("./")
    parts = name.split("/")
    if any(part.startswith(".") and part != ".." or part == "__MACOSX" for part in parts):
        return Reject(name, OTHER)
    if not is_image_name(name, data[:16]):
        return Reject(name, OTHER)
    if ".." in parts or name.startswith("/"):
        return Reject(name, "a path that leads out of the archive")
    if reason := explain_bad_name(name):
        return Reject(name, reason)
    if len(data) > MAX_BYTES:
        return Reject(name, _TOO_LARGE)
    return Member(name, data)
