"""How this process was launched, and settings that must come before torch is imported."""

import ctypes
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h


def count_launched() -> int:
    """Return the number of processes that the launcher, such as torchrun, started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def read_rank() -> int:
    """Return the number of this process among those of its launcher; 0 without a launcher."""
    return int(os.environ["RANK"]) if count_launched() > 1 else 0


def count_restarts() -> int:
    """Return how often torchrun has restarted the processes of this command after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def set_variables() -> None:
    """Set environment variables for OpenMP and torch; call this before torch is imported.

    By default a waiting thread of libgomp looks for work again and again for milliseconds (it spins). On a
    busy machine it thus occupies a core that other threads need, and sampling takes 2 to 10 times as long. If
    threads never spin, training on an idle machine is 8 % slower. 3,000 rounds, under 0.1 ms, avoid both
    (benchmarks/busy.py).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    if count_launched() > 1:
        # If one process is stopped, torch would print its C++ stack for each connection to it.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


@contextmanager
def keep_freed_memory() -> Generator[None]:
    """Inside the block, make the C allocator keep freed memory for reuse, in the whole process.

    By default glibc returns large freed blocks to the system. When the next layer of a network needs memory,
    the system fills each page with zeros again. This takes up to half of the time of feature extraction and a
    tenth of a training step. At the end, free memory is returned to the system, and glibc gets the limits
    that its own adaptation reaches for large blocks. Without glibc this function does nothing.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        for name, value in {_M_MMAP_MAX: 2**16, _M_MMAP_THRESHOLD: 2**25, _M_TRIM_THRESHOLD: 2**26}.items():
            libc.mallopt(name, value)
        libc.malloc_trim(0)
