"""Write files and folders that a kill or a power cut leaves complete or absent; lock and seal them.

An unfinished file or folder has a name ``.tmp-...`` beside its final name. It is flushed to the disk and then
renamed. A seal is the SHA-256 of all other entries of a JSON document: it shows that nothing has changed
since the document was written. It guards against accidents and careless edits, not against malice.
"""

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ddim.errors import Locked, UserError, explain_errors

LOCK = ".lock"
"""Name of the file whose lock is the lock of its folder."""

TEMPORARY = ".tmp-"
"""Prefix of the name of an unfinished file or folder."""

SEAL = "seal"
"""The entry of a document with the SHA-256 of its other entries."""


def make_folder(folder: Path) -> None:
    """Create `folder` and its missing parents, and flush their directory entries to the disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        flush(folder.parent)


def flush(path: Path) -> None:
    """Flush a file or the directory entries of a folder to the disk; Windows needs no flush of a folder."""
    if os.name != "nt" or path.is_file():
        number = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shorten_paths(text: str, folder: Path) -> str:
    """Return a text in which the paths of files in `folder` are relative to this folder."""
    return text.replace(f"{folder}{os.sep}", "")


# Writing


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path`, in place of an existing file; see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path) -> Generator[BinaryIO]:
    """Open a temporary file that replaces `path` if the block ends without an error.

    After a kill or a power cut, `path` is the old file or the new one, never an incomplete one.
    """
    temporary = temporary_name(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        flush(path.parent)
    except OSError as error:
        if error.filename in (None, str(temporary), temporary):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def temporary_folder(path: Path) -> Generator[Path]:
    """Create an empty temporary folder beside `path` and yield it; the block fills it and publishes it.

    A folder that `publish_folder` did not rename is removed at the end of the block. Missing parents of
    `path` are created.
    """
    make_folder(path.parent)
    remove_leftovers(path.parent, older_than=7 * 86_400)  # a week
    temporary = temporary_name(path)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish_folder(temporary: Path, path: Path) -> None:
    """Flush a filled temporary folder to the disk and rename it to `path`.

    Raises:
        OSError: if `path` is a file, or a folder that is not empty.
    """
    for place in (*temporary.rglob("*"), temporary):
        flush(place)
    if os.name == "nt" and path.exists():  # Windows does not rename a folder to the name of another.
        path.rmdir()
    os.rename(temporary, path)
    flush(path.parent)


def temporary_name(path: Path) -> Path:
    """Return a temporary name in the folder of `path` that no process on any machine uses."""
    return path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{path.name}")


def remove_leftovers(folder: Path, older_than: float = 0.0) -> None:
    """Remove the unfinished files and folders in a folder that processes left when they were killed.

    Args:
        folder: the folder; without `older_than`, no other process may be writing into it.
        older_than: the age in seconds that they must have.
    """
    for left in folder.glob(TEMPORARY + "[0-9a-f]" * 32 + "-*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime >= older_than:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


# Locks


@contextmanager
def lock_folder(folder: Path, wait: float = 0.2) -> Generator[None]:
    """Lock a folder for the process that writes it, until the block or the process ends.

    Args:
        folder: the folder.
        wait: for how many seconds to wait for another process; -1 waits until it ends.

    Raises:
        Locked: if another process has locked the folder. `is_locked` locks it for less than 0.2 seconds.
    """
    import filelock

    try:
        held = filelock.FileLock(folder / LOCK, timeout=wait).acquire()
    except filelock.Timeout:
        advice = "wait until it ends, or choose another folder"
        raise Locked(f"another process is writing into {folder}: {advice}") from None
    with held:
        yield


def is_locked(folder: Path) -> bool:
    """Return whether a process has locked the folder now."""
    if not (folder / LOCK).exists():
        return False
    try:
        with lock_folder(folder, wait=0):
            return False
    except (Locked, OSError) as error:  # nobody can tell in a folder that cannot be written
        return isinstance(error, Locked)


# Documents


def write_json(path: Path, document: object) -> None:
    """Write `document` as JSON to `path`; see `write_atomic`. After an error, `path` is unchanged.

    Raises:
        ValueError: if the document contains NaN or an infinity.
        TypeError: if the document contains a value that JSON cannot express.
    """
    write_atomic(path, json.dumps(document, indent=2, allow_nan=False).encode() + b"\n")


def read_json(path: Path) -> Any:  # noqa: ANN401 (JSON)
    """Return the JSON document in a file.

    Raises:
        UserError: if the file cannot be read, or is not JSON.
    """
    with explain_errors(f"{path} cannot be read", kind=OSError):
        content = path.read_bytes()
    # Deeply nested brackets raise RecursionError.
    with explain_errors(f"{path} is damaged: it is not JSON", kind=(ValueError, RecursionError)):
        return json.loads(content)


def write_sealed(path: Path, document: Mapping[str, object]) -> None:
    """Write a document with a seal as JSON to `path`; see `seal` and `write_json`."""
    write_json(path, seal(document))


def read_sealed(path: Path) -> dict[str, Any]:
    """Return the document in a file that `write_sealed` wrote, without its seal.

    A document without a seal is returned as it is: a user changed it on purpose, and removed the seal.

    Raises:
        UserError: if the file cannot be read, or an entry has changed since it was sealed.
    """
    document = read_json(path)
    if not isinstance(document, dict):
        raise UserError(f"{path} is damaged: it is not a table of entries")
    content = {key: value for key, value in document.items() if key != SEAL}
    if SEAL in document and document[SEAL] != hash_json(content):
        raise UserError(
            f"{path} is damaged: it has changed since ddim wrote it; put back a copy, or remove it and "
            f'make it again, or remove its entry "{SEAL}" if you changed it on purpose'
        )
    return content


def seal(document: Mapping[str, object]) -> dict[str, Any]:
    """Return a document with a first entry `SEAL`; see `write_json` for the errors."""
    plain = json.loads(json.dumps(document, allow_nan=False))
    # The first entry, because a few lost bytes at the end could join a seal to the text before it.
    return {SEAL: hash_json(plain), **plain}


def hash_json(value: object) -> str:
    """Return the SHA-256 (hex) of a value as JSON."""
    # Keys are sorted, so that a program that only writes a file anew does not break its seal.
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# The cache


def cache_folder(folder: str | Path | None = None) -> Path:
    """Return the cache folder: `folder` if given, else $DDIM_CACHE, else the user's own.

    Everything in it can be computed or downloaded again.
    """
    import platformdirs

    return Path(folder or os.environ.get("DDIM_CACHE") or platformdirs.user_cache_path("ddim")).expanduser()
