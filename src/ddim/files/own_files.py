"""Read pictures of a folder that may come from other people, such as a run.

A link in such a folder could lead to any file of the user, which a report or an export would then publish.
"""

from pathlib import Path

from ddim.errors import UserError
from ddim.files import measure_file, read_file

PICTURE_BYTES = 128 * 2**20
"""The largest number of bytes of a picture that is read."""

_MARKS = (b"\x89PNG\r\n\x1a\n", b"RIFF")
"""The first bytes of a PNG file and of a WebP file."""


def is_own_file(folder: Path, path: Path) -> bool:
    """Return whether a path is a regular file that lies inside a folder, also if it is a link."""
    # Opening a named pipe could block for ever.
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


def read_own_file(folder: Path, path: Path) -> bytes:
    """Return the content of a file of at most `PICTURE_BYTES` bytes that lies inside a folder.

    Raises:
        UserError: if it is not a regular file, is a link to a file outside of the folder, or is larger.
        OSError: if it cannot be read.
    """
    measure_file(path)
    if not is_own_file(folder, path):
        raise UserError(f"{str(path)!r} cannot be read: it is a link to a file outside of {str(folder)!r}")
    return read_file(path, PICTURE_BYTES)


def read_picture(folder: Path, path: Path) -> bytes:
    """Return the content of a PNG or WebP file that lies inside a folder; see `read_own_file`.

    Raises:
        UserError: also if the file is neither a PNG nor a WebP file.
        OSError: if it cannot be read.
    """
    content = read_own_file(folder, path)
    if not content.startswith(_MARKS):
        raise UserError(f"{str(path)!r} is damaged: it is not a picture")
    return content
