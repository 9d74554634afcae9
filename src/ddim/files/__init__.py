"""Write files and folders so that a crash or a power cut leaves each one complete or absent.

An unfinished file or folder has a temporary name ``.tmp-...`` in the same folder. When it is complete and
flushed to the disk, it is renamed to its final name. The process that writes an unfinished file holds a lock
on it, which ends with the process. So an unfinished file without a lock is a leftover.
"""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO

from ddim.errors import UserError, warn_user
from ddim.files.locks import LOCK, NEW, TEMPORARY, create_owned, remove_leftovers_once, temporary_name

FRESH = ".new"
"""Ending of the name of a complete folder that is about to replace another; see `replace_folder`."""


def cache_folder(folder: str | Path | None = None) -> Path:
    """Return the cache folder for new files: `folder` if given, else $DDIM_CACHE, else the user's own.

    Everything in it can be computed or downloaded again. If the folder belongs to another user, and this user
    cannot write to it, the result is the cache folder of this user, and a warning says so once.
    """
    return cache_folders(folder)[-1]


def cache_folders(folder: str | Path | None = None) -> list[Path]:
    """Return the folders in which cached files are looked for; the last one is for new files.

    There are two folders if the cache folder belongs to another user; see `cache_folder`.
    """
    import platformdirs

    own = platformdirs.user_cache_path("ddim")
    chosen = Path(folder or os.environ.get("DDIM_CACHE") or own).expanduser()
    if chosen == own or not any(_is_foreign(path) for path in (chosen, *(chosen / part for part in _SHARED))):
        return [chosen]
    _say_foreign(chosen, own)
    return [chosen, own]


_SHARED = ("surveys", "features", "compiler", "downloads", "weights")


def _is_foreign(folder: Path) -> bool:
    """Return whether a folder belongs to another user, and this user cannot write to it."""
    with suppress(OSError, AttributeError):  # Windows has no user ids.
        return folder.stat().st_uid != os.geteuid() and not os.access(folder, os.W_OK)
    return False


@cache
def _say_foreign(folder: Path, own: Path) -> None:
    warn_user(f"the cache folder {folder} belongs to another user: it is only read, new files go to {own}")


def make_folder(folder: Path) -> None:
    """Create `folder` and its missing parents, and flush their directory entries to the disk."""
    if not folder.is_dir():
        if folder != folder.parent:  # A missing drive of Windows is its own parent.
            make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def shorten_paths(text: str, folder: Path) -> str:
    """Return a text in which the paths of files in `folder` are relative to this folder."""
    return text.replace(f"{folder}{os.sep}", "")


# Reading files from other people


def measure_file(path: Path) -> int:
    """Return the size of a regular file in bytes, without opening it.

    Opening a named pipe or a device can block for ever. A file of /proc is a regular file of size 0, and
    reading it can block or never end: do not open a file of size 0.

    Raises:
        UserError: if it is not a regular file.
        OSError: if there is no such file.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "not a regular file"
        raise UserError(f"{str(path)!r} cannot be read: it is {kind}")
    return found.st_size


def read_file(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Raises:
        UserError: if it is not a regular file, or larger.
        OSError: if it cannot be read.
    """
    size = measure_file(path)
    if size:
        with path.open("rb") as file:
            content = file.read(most + 1)
        if len(content) <= most:
            return content
        raise UserError(f"{str(path)!r} is larger than {most / 2**20:g} MiB, and is not read")
    return b""


# Writing


def write_new(path: Path, content: bytes) -> None:
    """Write `content` to a new file and flush it to the disk.

    A crash may leave an incomplete file: use this inside a `temporary_folder`, and `write_atomic` elsewhere.

    Raises:
        FileExistsError: if the file exists.
    """
    file = os.open(path, NEW, 0o666)
    try:
        with _named(path):
            _write(file, content)
            os.fsync(file)
    finally:
        os.close(file)


def _write(file: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path` and replace an existing file.

    After a crash, `path` is the old file or the new file, never an incomplete file.
    """
    with _renamed_at_end(path, os.replace) as file:
        _write(file, content)


@contextmanager
def atomic_file(path: Path) -> Generator[BinaryIO]:
    """Open a temporary file that replaces `path` if the block ends without an error; see `write_atomic`."""
    with _renamed_at_end(path, os.replace) as number, os.fdopen(number, "wb", closefd=False) as file:
        yield file


def write_once(path: Path, content: bytes) -> None:
    """Write `content` to a file that only one process can create, even if several machines share the drive.

    The file system must support hard links.

    Raises:
        FileExistsError: if the file exists, or another process created it first.
    """
    with _renamed_at_end(path, _link_once) as file:
        _write(file, content)


def download_file(url: str, path: Path, kind: str, hashes: tuple[str, ...]) -> Path:
    """Download a file with a progress bar; it appears at `path` only if its hash is correct.

    Args:
        url: the address.
        path: the path of the file; missing folders are created.
        kind: the type of the hashes, "md5" or "sha256".
        hashes: the allowed hashes, or their first digits, in hex.

    Returns:
        `path`.

    Raises:
        OSError: if the server cannot be reached, the hash is wrong, or `path` cannot be written.
        RuntimeError: if the download fails otherwise, for example after too many redirects.
    """
    from torchvision.datasets.utils import download_url

    with temporary_folder(path) as folder:
        download_url(url, folder, path.name)
        with (folder / path.name).open("r+b") as file:
            found = hashlib.file_digest(file, partial(hashlib.new, kind, usedforsecurity=False)).hexdigest()
            os.fsync(file.fileno())
        if not found.startswith(hashes):
            raise OSError(f"the {kind} of the downloaded file is {found}, not {' or '.join(hashes)}")
        os.replace(folder / path.name, path)
    sync_folder(path.parent)
    return path


@contextmanager
def temporary_folder(path: Path) -> Generator[Path]:
    """Create an empty temporary folder beside `path` and yield it; the block fills it.

    The block then renames it with `publish_folder`. A folder that was not renamed is removed at the end of
    the block. Missing parents of `path`, which must have a name, are created.
    """
    make_folder(path.parent)
    remove_leftovers_once(path.parent)
    while True:
        # The temporary name is that of a locked folder around the yielded one.
        outer = temporary_name(path)
        try:
            with _named(path):
                outer.mkdir()
                lock = None
                with suppress(FileNotFoundError):  # Another process took the empty folder for a leftover.
                    lock = create_owned(outer / LOCK)
            if lock is None:
                continue
            try:
                (outer / path.name).mkdir()
                yield outer / path.name
            finally:
                os.close(lock)
            return
        finally:
            with suppress(OSError):
                (outer / LOCK).unlink()
                outer.rmdir()
            shutil.rmtree(outer, ignore_errors=True)


def publish_folder(temporary: Path, path: Path) -> None:
    """Rename a filled temporary folder to `path`, and flush all directory entries to the disk.

    Raises:
        OSError: if `path` is a file, or a folder that is not empty.
    """
    for inner, _, _ in os.walk(temporary, topdown=False):
        sync_folder(Path(inner))
    if os.name == "nt":  # Windows does not rename a folder to the name of another, even if this one is empty.
        with suppress(FileNotFoundError):
            path.rmdir()
    os.rename(temporary, path)
    sync_folder(path.parent)


def replace_folder(temporary: Path, path: Path) -> None:
    """Rename a filled temporary folder to `path`, in place of the folder there; see `publish_folder`.

    A rename cannot replace a folder that has content. So the new folder first gets the ending `FRESH`, then
    the old one is removed, then the new one gets its final name. A process that is killed may leave both
    folders: readers must prefer the new one, and the next writer must call `settle_folder`.
    """
    if not path.exists():
        publish_folder(temporary, path)
        return
    fresh = path.with_name(path.name + FRESH)
    publish_folder(temporary, fresh)
    settle_folder(fresh)


def settle_folder(fresh: Path) -> None:
    """Rename a folder with the ending `FRESH` to its final name, in place of the folder there."""
    path = fresh.with_name(fresh.name.removesuffix(FRESH))
    if path.exists():
        remove_folder(path)
    os.rename(fresh, path)
    sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder so that a crash leaves it complete or absent."""
    # The folder is renamed first, because a partly deleted one would look like a damaged one.
    rubbish = temporary_name(path)
    os.rename(path, rubbish)
    # Nobody holds a lock on it, so another process may remove it too, and first put its lock there.
    for _ in range(5):
        try:
            shutil.rmtree(rubbish)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise
        if not rubbish.exists():
            break


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush the directory entries of `folder` to the disk; do nothing on Windows, which needs none."""
    if hasattr(os, "O_DIRECTORY"):
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


@contextmanager
def _named(path: Path) -> Generator[None]:
    """Let an OSError of the block name `path`, if it names a temporary file or no file at all."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and TEMPORARY in os.fsdecode(error.filename or TEMPORARY):
            error.filename = str(path)
        raise


@contextmanager
def _renamed_at_end(path: Path, rename: Callable[[Path, Path], None]) -> Generator[int]:
    """Yield the descriptor of a new file beside `path`; call `rename(its path, path)` after the block.

    The file is flushed to the disk before `rename` is called. After an error, the file is removed.
    """
    remove_leftovers_once(path.parent)
    while True:
        temporary = temporary_name(path)
        try:
            with _named(path), ExitStack() as closing:
                file = create_owned(temporary)
                if file is None:
                    continue
                closing.callback(os.close, file)
                yield file
                os.fsync(file)
                if os.name == "nt":  # Windows renames only closed files.
                    closing.close()
                rename(temporary, path)
            break
        finally:
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _link_once(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        # A file server may have created the link, lost the reply, and refused the repeated request. Then both
        # names are the same file, and this process has created it.
        if not os.path.samefile(temporary, path):
            raise
