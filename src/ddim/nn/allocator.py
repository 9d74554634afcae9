"""Memory that a process keeps once it has had it."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep() -> None:
    """Have C's allocator keep what is freed, up to the most that was ever in use, for the whole process.

    glibc gives blocks of 32 MB and more back to the system as they are freed, and has the next layer of a
    network get them again page by page, zeroed: up to half of the time of features, a quarter of a training
    step. Where there is no glibc, nothing is done.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
