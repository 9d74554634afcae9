"""Let the modules of `ddim.files` behave as on Windows: its locks, and the renames that it refuses.

There are no locks of whole files. A locked range of bytes cannot be locked again, not even by the process
that has locked it. Files that are open are neither renamed nor removed, nor are the folders around them. A
rename never replaces a folder.
"""

import errno
import os
import sys
from pathlib import Path

import pytest

from ddim import files
from ddim.files import locks


class Windows:
    """Takes the place of the modules `os` and `msvcrt`."""

    name = "nt"
    LK_NBLCK = 2

    def __init__(self):
        self._rename, self._unlink = os.rename, os.unlink
        self._locked = {}

    def __getattr__(self, name):
        return getattr(os, name)

    def locking(self, file, mode, count):
        assert mode == self.LK_NBLCK
        begin = os.lseek(file, 0, os.SEEK_CUR)
        assert begin > 2**36, "other processes could not read the bytes that are locked"
        inode = os.fstat(file).st_ino
        for other, first, end in self._locked.values():
            if other == inode and begin < end and first < begin + count:
                raise PermissionError(errno.EACCES, "Permission denied")
        self._locked[file] = inode, begin, begin + count

    def close(self, file):
        self._locked.pop(file, None)
        os.close(file)

    def rename(self, old, new):
        self._refuse_open(old)
        if os.path.exists(new):
            raise FileExistsError(errno.EEXIST, "Cannot replace an existing file", str(new))
        self._rename(old, new)

    def unlink(self, path, *, dir_fd=None):
        self._refuse_open(path if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}", path))
        self._unlink(path, dir_fd=dir_fd)

    def _refuse_open(self, path):
        path = os.path.realpath(path)
        for link in Path("/proc/self/fd").iterdir():
            used = os.path.realpath(link)
            if used == path or (used.startswith(f"{path}/") and not os.path.isdir(used)):
                raise PermissionError(errno.EACCES, "The file is used by another process", path)


def pretend_windows(monkeypatch):
    """Let `ddim.files` behave as on Windows until the end of the test."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("only Linux lists the open files of a process")
    windows = Windows()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    for module in (files, locks):
        monkeypatch.setattr(module, "os", windows)
    monkeypatch.setattr(os, "rename", windows.rename)
    monkeypatch.setattr(os, "unlink", windows.unlink)
