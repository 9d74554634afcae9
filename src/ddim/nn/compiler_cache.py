"""A private cache folder for torch.compile, which runs the pickles and libraries that it finds there."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ddim.errors import warn_user
from ddim.files import cache_folder, make_folder

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def secure_compiler_cache() -> Path:
    """Make torch.compile use a cache folder that only this user can write to; return the folder.

    By default torch uses ``torchinductor_USER`` in the shared temporary folder, a name that any user of the
    machine can create first. This function replaces that folder, in the whole process, by ``compiler`` in the
    cache folder. If other users could change ``compiler`` too, this function warns and uses a new temporary
    folder. A folder that the user has set with $TORCHINDUCTOR_CACHE_DIR is kept.
    """
    # The folder must be set before most of torch._inductor and torch._dynamo is imported. This module is
    # small enough to be imported before.
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    chosen = os.environ.get(_VARIABLE)
    # torch sets the variable to its default folder when it is imported. So this value is not the user's
    # choice.
    if chosen is None or os.path.abspath(chosen) == os.path.abspath(default_cache_dir()):
        chosen = os.environ[_VARIABLE] = str(_make_private(cache_folder() / "compiler"))
    _move_headers(Path(chosen) / "precompiled_headers")
    _remove_incomplete(Path(chosen))
    return Path(chosen)


def _remove_incomplete(folder: Path) -> None:
    """Remove libraries that a stopped compiler left incomplete; torch would fail each time it loads them."""
    for library in folder.glob("*/*.so"):
        with suppress(OSError):
            # A library that was changed in the last second is kept: another process may still write to it.
            if time.time() - library.stat().st_mtime > 1 and not _is_complete(library):
                library.unlink()


def _is_complete(library: Path) -> bool:
    """Return whether a library is not empty and, if it is an ELF file, contains its whole section table.

    Linkers write this table last. Its offset, entry size and length are in the header (64-bit ELF).
    """
    with library.open("rb") as file:
        head = file.read(64)
    if head[:4] != b"\x7fELF":
        return bool(head.strip(b"\0"))
    start, size, count = (int.from_bytes(head[a:b], "little") for a, b in ((40, 48), (58, 60), (60, 62)))
    return start > 0 and library.stat().st_size >= start + size * count


def _make_private(folder: Path) -> Path:
    """Return `folder`, created if missing, or a new temporary folder if other users could change `folder`."""
    reason = ""
    try:
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        if _is_private(folder):
            return folder.resolve()
    except OSError as error:
        reason = f" ({error.strerror})"
    warn_user(
        f"{folder} is not a folder that only you can write to{reason}, so this command compiles networks "
        "anew: remove that folder, or set DDIM_CACHE to a folder of your own"
    )
    fresh = tempfile.mkdtemp(prefix="ddim-compiler-")
    atexit.register(shutil.rmtree, fresh, ignore_errors=True)
    return Path(fresh)


def _is_private(folder: Path) -> bool:
    """Return whether only this user and the administrator can change or replace a folder."""
    if not hasattr(os, "getuid"):
        return True  # On Windows the cache folder is in the user's profile.
    trusted = {0, os.getuid()}
    own = folder.lstat()
    if not stat.S_ISDIR(own.st_mode) or own.st_uid != os.getuid() or own.st_mode & 0o022:
        return False
    parents = [parent.stat() for parent in folder.resolve().parents]
    # A parent that all users can write to is safe if it has the sticky bit, such as /tmp: users can then
    # rename only what they have created.
    return all(
        parent.st_uid in trusted and (not parent.st_mode & 0o022 or parent.st_mode & stat.S_ISVTX)
        for parent in parents
    )


def _move_headers(folder: Path) -> None:
    """Make torch keep precompiled headers in `folder`: torch ignores $TORCHINDUCTOR_CACHE_DIR for them."""
    from torch._inductor import codecache, config

    if not hasattr(codecache, "_HEADER_DIR"):
        config.cpp_cache_precompile_headers = False
    elif str(folder) != codecache._HEADER_DIR:
        codecache._HEADER_DIR, codecache._HEADER_LOCK_DIR = str(folder), str(folder / "locks")
        # torch remembers the headers that it compiled into the old folder, and must forget them.
        codecache._precompile_header.cache_clear()
