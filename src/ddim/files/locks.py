"""Locks of files and folders: they end with the process that holds them.

Only one process at a time trains in a run folder or writes into an output folder. A process also locks its
unfinished files, ``.tmp-...``. So if nobody holds the lock of such a file, its process has ended.
"""

import errno
import os
import re
import secrets
import shutil
import time
import uuid
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from ddim.errors import FolderLocked

LOCK = ".lock"
"""Name of the file whose lock is the lock of its folder."""

TEMPORARY = ".tmp-"
"""Prefix of the name of an unfinished file or folder."""

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
"""Flags that create a file, and refuse an existing one."""

_LEFT = re.compile(rf"{re.escape(TEMPORARY)}[0-9a-f]{{32}}-.")
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}
"""The error numbers of systems and drives that have no file locks; EINVAL is that of a drive on Windows."""

_RANGE = range(2**40, 2**40 + 2**30)
"""The bytes that are locked on Windows, beyond the end of any file: others cannot read locked bytes."""


def try_lock(file: int, *, shared: bool = False) -> bool | None:
    """Lock an open file until it is closed, unless another process has locked it; this never waits.

    Args:
        file: the descriptor of the file.
        shared: whether several processes may hold such a lock of the file at once.

    Returns:
        True if the file is now locked, False if another process has locked it, and None if this system or
        drive has no such locks.
    """
    try:
        _lock(file, shared=shared)
    except ModuleNotFoundError:
        return None
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


def _lock(file: int, *, shared: bool) -> None:
    """Lock an open file, or raise a BlockingIOError if another process has locked it."""
    try:
        import fcntl
    except ModuleNotFoundError:
        _lock_bytes(file, shared=shared)
    else:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _lock_bytes(file: int, *, shared: bool) -> None:
    """Do the same as `_lock` on Windows, for a file that was just opened.

    There Python can lock only bytes, and each byte only for one process. So an exclusive lock locks all bytes
    of `_RANGE`, and a shared lock a random one. Two shared locks of one byte are improbable.
    """
    import msvcrt

    os.lseek(file, secrets.choice(_RANGE) if shared else _RANGE.start, os.SEEK_SET)
    try:
        # pyrefly: ignore[missing-attribute] (only on Windows)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1 if shared else len(_RANGE))
    except PermissionError as error:
        raise BlockingIOError(*error.args) from None
    finally:
        os.lseek(file, 0, os.SEEK_SET)


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files and folders of dead processes from `folder`.

    Such files are recognised by their locks, which nobody holds. If this system or drive refuses locks,
    nothing is removed. Some network drives accept locks, but other machines do not see them (NFS mounted with
    nolock or local_lock, sshfs): there, unfinished files of a process on another machine are removed too.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for left in [Path(entry.path) for entry in entries if _LEFT.match(entry.name)]:
            with suppress(OSError):
                _remove_if_dead(left)


def remove_leftovers_once(folder: Path) -> None:
    """Call `remove_leftovers` if this process has not called this function with this folder before.

    Files are written one by one into a folder that may hold 50,000 files, so the folder is listed only once.
    """
    _remove_at_first(os.path.abspath(folder))


@cache
def _remove_at_first(folder: str) -> None:
    remove_leftovers(Path(folder))


def _remove_if_dead(left: Path) -> None:
    is_folder = left.is_dir()
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    # A folder without a lock belongs to a process that died while it created or removed the folder.
    file = os.open(left / LOCK, flags | os.O_CREAT, 0o666) if is_folder else os.open(left, flags)
    with ExitStack() as closing:
        closing.callback(os.close, file)
        if not try_lock(file):
            return
        if os.name == "nt":  # Windows removes only closed files. It renames nothing that a process has open.
            closing.close()
            left = left.rename(temporary_name(left))
        if is_folder:
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink()


def temporary_name(path: Path) -> Path:
    """Return a temporary name in the folder of `path` that no other process uses."""
    # A process id would not be enough: machines that share a drive can have equal process ids.
    return path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{path.name}")


def create_owned(place: Path) -> int | None:
    """Create a file, lock it, and return its descriptor.

    Returns None if the file exists already, or another process took it for a leftover before it was locked.
    The caller must then choose another name.
    """
    try:
        file = os.open(place, NEW, 0o666)
    except FileExistsError:
        return None
    with suppress(FileNotFoundError):
        if try_lock(file) is not False and os.path.samestat(os.fstat(file), os.stat(place)):
            return file
    os.close(file)
    return None


# Folders


@contextmanager
def lock_folder(folder: Path) -> Generator[None]:
    """Lock a folder for the process that trains in it or writes it, until the block or the process ends.

    Some network drives have no such locks. There nothing is locked: do not write into one folder from two
    processes.

    Raises:
        FolderLocked: if another process has locked the folder.
    """
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if try_lock(file) is False:
            time.sleep(0.05)  # `is_locked` in another process locks the folder for less than this
            if try_lock(file) is False:
                raise FolderLocked(folder)
        yield
    finally:
        # The file is not removed: otherwise two processes could lock two files of the same name.
        os.close(file)


def is_locked(folder: Path) -> bool:
    """Return whether a process has locked the folder now; False if locks are not supported."""
    try:
        # Without O_NONBLOCK, opening a named pipe could wait for ever.
        file = os.open(folder / LOCK, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return False
    try:
        return try_lock(file, shared=True) is False
    finally:
        os.close(file)
