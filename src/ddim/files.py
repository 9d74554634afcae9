"""Write files and folders that a kill or a power cut leaves complete or absent; lock, seal, cache.

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
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ddim.errors import Locked, UserError, suggest

LOCK = ".lock"
"""Name of the file whose lock is the lock of its folder."""

TEMPORARY = ".tmp-"
"""Prefix of the name of an unfinished file or folder."""

SEAL = "seal"
"""The entry of a document with the SHA-256 of its other entries."""

_HEX = "[0-9a-f]"


def make_folder(folder: Path) -> None:
    """Create `folder` and its missing parents, and flush their directory entries to the disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Flush the directory entries of `folder` to the disk; do nothing on Windows, which needs none."""
    if hasattr(os, "O_DIRECTORY"):
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


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
        sync_folder(path.parent)
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
        if place.is_dir():
            sync_folder(place)
        else:
            with place.open("r+b") as file:
                os.fsync(file.fileno())
    if os.name == "nt" and path.exists():  # Windows does not rename a folder to the name of another.
        path.rmdir()
    os.rename(temporary, path)
    sync_folder(path.parent)


def temporary_name(path: Path) -> Path:
    """Return a temporary name in the folder of `path` that no process on any machine uses."""
    return path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{path.name}")


def remove_leftovers(folder: Path, older_than: float = 0.0) -> None:
    """Remove the unfinished files and folders in a folder that processes left when they were killed.

    Args:
        folder: the folder; without `older_than`, no other process may be writing into it.
        older_than: the age in seconds that they must have.
    """
    for left in folder.glob(TEMPORARY + _HEX * 32 + "-*"):
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
        # Nobody can tell in a folder that cannot be written.
        with suppress(OSError), lock_folder(folder, wait=0):
            pass
    except Locked:
        return True
    return False


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
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # Deeply nested brackets raise RecursionError.
        raise UserError(f"{path} is damaged: it is not JSON ({error})") from error


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
    if SEAL in document and document[SEAL] != _hash_entries(content):
        raise UserError(
            f"{path} is damaged: it has changed since ddim wrote it; put back a copy, or remove it and "
            f'make it again, or remove its entry "{SEAL}" if you changed it on purpose'
        )
    return content


def seal(document: Mapping[str, object]) -> dict[str, Any]:
    """Return a document with a first entry `SEAL`; see `write_json` for the errors."""
    plain = json.loads(json.dumps(document, allow_nan=False))
    # The first entry, because a few lost bytes at the end could join a seal to the text before it.
    return {SEAL: _hash_entries(plain), **plain}


def _hash_entries(document: Mapping[str, Any]) -> str:
    # Keys are sorted, so that a program that only writes the file anew does not break the seal.
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


# The cache


def cache_folder(folder: str | Path | None = None) -> Path:
    """Return the cache folder: `folder` if given, else $DDIM_CACHE, else the user's own.

    Everything in it can be computed or downloaded again.
    """
    import platformdirs

    return Path(folder or os.environ.get("DDIM_CACHE") or platformdirs.user_cache_path("ddim")).expanduser()


CACHE_PARTS = {
    "images": [f"images/{_HEX * 32}"],
    "stamps": [f"stamps/{_HEX * 64}"],
    "features": [f"features/*{_HEX * 64}*"],
    "compiler": ["compiler"],
    "downloads": ["downloads/flowers-102", "downloads/oxford-iiit-pet", "downloads/cifar-10-*"],
    "hub": ["hub/*--*"],
    "weights": [f"weights/*-{_HEX * 8}.pth"],
}
"""Patterns of the paths of the entries of each part of the cache.

Other files are never removed, because the user may keep some in the cache folder.
"""


@dataclass(frozen=True)
class CacheContents:
    """The cache folder, the bytes in each of its parts, and the bytes that were freed."""

    folder: Path
    parts: dict[str, int]
    freed: int

    def __str__(self) -> str:
        """Return the sizes of the cache and of its parts, or what was freed."""
        if self.freed:
            return f"{self.freed / 1e6:,.1f} MB freed in {self.folder}"
        sizes = [f"  {name:<9} {size / 1e6:>8,.1f} MB" for name, size in self.parts.items()]
        return "\n".join([f"{self.folder}: {sum(self.parts.values()) / 1e6:,.1f} MB", *sizes])

    def to_json(self) -> dict[str, Any]:
        """Return the folder and the bytes."""
        return asdict(self)


def inspect_cache(*, clear: Sequence[str] = ()) -> CacheContents:
    """Show the contents of the cache, or clear parts of it.

    The cache folder is $DDIM_CACHE, or else the user's cache folder. Everything in it can be computed or
    downloaded again. Do not clear it while other commands of ddim run. Its parts:

      images      decoded data sets
      stamps      notes which files the decoded data sets belong to
      features    samples, and features of samples and images
      compiler    compiled networks
      downloads   built-in data sets
      hub         files of the Hugging Face Hub
      weights     weights of feature networks

    Args:
        clear: parts to remove, or all.

    Commands:
        ddim cache
        ddim cache --clear images,features
    """
    names = CACHE_PARTS if "all" in clear else [clear] if isinstance(clear, str) else clear
    for name in names:
        if name not in CACHE_PARTS:
            known = ", ".join(CACHE_PARTS)
            raise UserError(f"the parts of the cache are {known}, got {name!r}{suggest(name, CACHE_PARTS)}")
    freed = sum(_measure_part(name) for name in names)
    for path in (path for name in names for path in _list_entries(name)):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return CacheContents(cache_folder(), {name: _measure_part(name) for name in CACHE_PARTS}, freed)


def _list_entries(name: str) -> list[Path]:
    return [path for pattern in CACHE_PARTS[name] for path in sorted(cache_folder().glob(pattern))]


def _measure_part(name: str) -> int:
    files = (file for path in _list_entries(name) for file in (path, *path.rglob("*")) if not file.is_dir())
    return sum(file.lstat().st_size for file in files)
