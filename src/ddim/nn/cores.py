"""The processor cores that this process may use, and how much of them other programs use."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

TOLERATED = 0.3
"""Cores that other programs may use before a thread is given up: about a desktop without work."""


SPINS = "3000"
"""Turns of the loop in which a thread of libgomp waits before it sleeps: less than 0.1 ms."""


def wait_briefly() -> None:
    """Let waiting OpenMP threads sleep soon: set GOMP_SPINCOUNT for this process, unless the user chose.

    By default a waiting thread of libgomp spins for milliseconds. On a busy machine it then holds a core that
    the thread it waits for needs, and sampling is slower by a factor of 2 to 10. Threads that never spin cost
    an idle machine 8 % of its speed in training; with `SPINS` neither happens (benchmarks/busy.py). Call this
    before torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def count_allowed() -> int:
    """Return the number of processors that this process may use, by its affinity and its cgroup."""
    return min(len(_allowed()) or os.cpu_count() or 1, _quota())


def choose_threads(cores: int, others: float) -> int:
    """Return the number of threads for which other programs leave cores free; at least 1.

    A thread without a core of its own makes all others wait, and the gradients of convolutions spin while
    they wait. On two cores beside two other programs, two threads train at a tenth of the speed of one.

    Args:
        cores: number of cores.
        others: cores that other programs use.
    """
    free = cores - max(0, math.ceil(others - TOLERATED))
    # A compiled network is compiled anew for each number of threads, so few different numbers are used.
    unit = max(1, cores // 4)
    return max(1, free // unit * unit)


class CoreMeter:
    """Measures how many cores other programs use, from its creation or last `restart`.

    On systems without /proc/stat it measures 0. Processes with a lower priority than this one do not count,
    because they give way.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Start a new interval."""
        self._began, self._busy, self._own = time.monotonic(), _busy_seconds(), _own_seconds()

    @property
    def seconds(self) -> float:
        """The length of the interval so far."""
        return time.monotonic() - self._began

    def others(self) -> float:
        """Return the mean number of cores that other programs used in the interval."""
        spent = _busy_seconds() - self._busy - (_own_seconds() - self._own)
        return max(0.0, spent / max(1e-3, self.seconds))


def measure_others(meter: CoreMeter, least: float = 0.5) -> float:
    """Return the cores that other programs use, over an interval of at least `least` seconds."""
    time.sleep(max(0.0, least - meter.seconds))
    return meter.others()


def _allowed() -> set[int]:
    """Return the indices of the processors that this process may use; empty if they are unknown."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _quota() -> int:
    """Return the number of cores that the cgroup of this process may use, rounded up."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return 2**31


def _busy_seconds() -> float:
    """Return the seconds for which the allowed processors have been busy since the system started."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return 0.0
    names = {f"cpu{k}" for k in _allowed()}
    ticks = 0
    for name, *fields in (line.split() for line in lines if line.startswith("cpu")):
        if name in names:
            user, nice, system, _idle, _wait, irq, softirq, stolen, *_ = map(int, fields)
            ticks += user + system + irq + softirq + stolen + (nice if os.nice(0) > 0 else 0)
    return ticks / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Return the processor seconds of this process and its ended children."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
