"""Open zip and tar files from other people, with limits on the memory and time that reading them can take.

An archive may unpack to `EXPANSION` times its size, and `SLACK` bytes more. Images are compressed already, so
honest archives are far below this bound.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zipfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

from ddim.data.decode import BROKEN
from ddim.errors import UserError

EXPANSION, SLACK = 250, 2**26
"""The unpacked size may be at most this many times the size of the archive, plus this many bytes."""

DAMAGED = (*BROKEN, zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, lzma.LZMAError)
"""The exceptions that damaged archives raise.

RuntimeError is among them, because encrypted archives and unknown compression methods raise it.
"""

# Each member uses at least this many bytes of the allowance, because thousands of tiny ones take time too.
_LEAST = 4096
# Limits of headers that belong to the next member, such as its long name: bytes of one, and number in a row.
_LARGEST_HEADER, _MOST_HEADERS = 2**20, 16
_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
# tarfile would take these errors for the end of the archive.
_BAD_HEADER = (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError)  # pyrefly: ignore[missing-attribute]
_PACKED: dict[bytes, Any] = {
    b"\x1f\x8b": gzip,
    b"BZh": bz2,
    b"\xfd7zXZ\0": lzma,
    b"\x5d\0\0": lzma,
}


class Allowance:
    """The bytes that may still be unpacked from an archive."""

    def __init__(self, path: Path) -> None:
        self.path, self.total = path, EXPANSION * path.stat().st_size + SLACK
        self.left = self.total

    def take(self, count: int) -> None:
        """Subtract the `count` bytes of a member, but at least 4096, from the allowance.

        Raises:
            UserError: if the archive has used up its allowance.
        """
        self.left -= max(count, _LEAST)
        if self.left < 0:
            raise self.refusal()

    def refusal(self) -> UserError:
        """Return the error for an archive that unpacks to more bytes than its allowance."""
        return UserError(
            f"{str(self.path)!r} unpacks to more than {EXPANSION} times its size: unpack it with another "
            "program, and give the folder"
        )


@contextmanager
def open_zip(path: Path) -> Generator[zipfile.ZipFile]:
    """Open a zip file until the end of a `with` block.

    Raises:
        UserError: if it cannot be opened.
    """
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGED as error:
        raise UserError(f"{str(path)!r} cannot be opened as a zip file: {error}") from None
    with archive:
        yield archive


def read_tar(path: Path, allowance: Allowance) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Yield pairs (header, content) of the members of a tar file; content is None if a member is not a file.

    The tar file may be compressed. The content must be read before the next pair is taken.

    Raises:
        *DAMAGED: if the archive is damaged, or is not a tar file.
        UserError: if the archive unpacks to more than the allowance.
    """
    with _open_tar(path, allowance) as archive:
        while (info := archive.next()) is not None:
            # Else every header would stay in memory.
            archive.members.clear()  # pyrefly: ignore[missing-attribute]
            allowance.take(0)
            yield info, archive.extractfile(info) if info.isreg() else None


def is_tar(path: Path) -> bool:
    """Return whether a file is a tar file, which may be compressed.

    Raises:
        UserError: if its first header unpacks to more bytes than the allowance of the file.
    """
    try:
        with _open_tar(path, Allowance(path)):
            return True
    except UserError:
        raise
    except DAMAGED:
        return False


@contextmanager
def _open_tar(path: Path, allowance: Allowance) -> Generator[tarfile.TarFile]:
    with path.open("rb") as file:
        head = file.read(6)
        file.seek(0)
        packed = next((module for magic, module in _PACKED.items() if head.startswith(magic)), None)
        content: Any = file if packed is None else _Unpacked(packed.open(file), allowance)
        with _Archive(fileobj=content) as archive:
            yield archive


class _Unpacked:
    """An unpacked file that can be read as far as an allowance permits."""

    def __init__(self, file: IO[bytes], allowance: Allowance) -> None:
        self.file, self.allowance = file, allowance

    def tell(self) -> int:
        return self.file.tell()

    def read(self, size: int) -> bytes:
        self._check(self.file.tell() + size)
        return self.file.read(size)

    def seek(self, place: int) -> int:
        self._check(place)
        return self.file.seek(place)

    def _check(self, place: int) -> None:
        if place > self.allowance.total:
            raise self.allowance.refusal()


class _Info(tarfile.TarInfo):
    """The header of a member; a header that is too large is refused before its content is read."""

    @classmethod
    # pyrefly: ignore[bad-override-param-name]
    def fromtarfile(cls, archive: Any) -> Self:  # noqa: ANN401  (an `_Archive`)
        """Return the next member of an archive; see `tarfile.TarInfo`."""
        try:
            return super().fromtarfile(archive)
        except _BAD_HEADER as error:
            raise tarfile.ReadError(str(error)) from None

    def _proc_member(self, archive: Any) -> Self:  # noqa: ANN401
        """Return the member that begins with this header; tarfile calls this method for every header."""
        if self.type in _HEADERS and self.size > _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        with archive.count_header():
            return super()._proc_member(archive)  # pyrefly: ignore[missing-attribute]


class _Archive(tarfile.TarFile):
    """A tar file that is read with `_Info`."""

    tarinfo, in_a_row = _Info, 0

    @contextmanager
    def count_header(self) -> Generator[None]:
        """Add one to the number of headers of this member until the `with` block ends.

        Raises:
            ReadError: if a member has too many headers in a row.
        """
        self.in_a_row += 1
        if self.in_a_row > _MOST_HEADERS:
            raise tarfile.ReadError(f"more than {_MOST_HEADERS} headers of one member")
        yield
        self.in_a_row -= 1
