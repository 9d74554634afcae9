"""The lock of a run folder: only one process trains in it at a time."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddim.errors import FolderLocked

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
"""The error numbers of systems and drives that have no file locks."""


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a run folder for the process that trains in it, until the block or the process ends.

    Windows and some network drives have no such locks. There nothing is locked: do not train in one folder
    from two processes.

    Raises:
        FolderLocked: if another process has locked the folder.
    """
    try:
        import fcntl
    except ModuleNotFoundError:
        yield
        return
    file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)  # `is_locked` in another process locks the folder for less than this
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderLocked(folder) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        # The file is not removed: otherwise two processes could lock two files of the same name.
        os.close(file)


def is_locked(folder: Path) -> bool:
    """Return whether a process has locked the folder now; False if locks are not supported."""
    try:
        import fcntl

        file = os.open(folder / ".lock", os.O_RDONLY)
    except (ModuleNotFoundError, FileNotFoundError):
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    finally:
        os.close(file)
    return False
