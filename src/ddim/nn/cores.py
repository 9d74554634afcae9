"""The processor cores that this process may use, and how much of them other programs use."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

TOLERATED = 0.3
"""Number of cores that other programs may use before this program uses one thread less.

An idle desktop uses about this much.
"""
SPINS = "3000"
"""How many times a waiting thread of libgomp looks for work before it sleeps; this takes under 0.1 ms."""
_PROCESSORS = Path("/sys/devices/system/cpu")
"""Where Linux says which processors share a core."""


def wait_briefly() -> None:
    """Let waiting OpenMP threads sleep soon: set GOMP_SPINCOUNT for this process.

    If the user has set this variable or OMP_WAIT_POLICY, nothing changes. By default a waiting thread of
    libgomp looks for work again and again for milliseconds (it spins). On a busy machine it thus occupies a
    core that other threads need, and sampling takes 2 to 10 times as long. If threads never spin, training on
    an idle machine is 8 % slower. `SPINS` avoids both (benchmarks/busy.py).

    Call this function before torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def count_allowed() -> int:
    """Return the number of processors that both the affinity and the cgroup of this process allow."""
    return min(len(_allowed()) or os.cpu_count() or 1, _quota())


def count_physical() -> int:
    """Return the number of physical cores that this process may use, at least 1.

    Where the system does not say which processors share a core, each processor counts.
    """
    cores = {_siblings(processor) for processor in _allowed()}
    return min(len(cores) or os.cpu_count() or 1, _quota())


def choose_threads(cores: int, others: float) -> int:
    """Return how many threads to use so that each has a core that other programs leave free; at least 1.

    If one thread has no core of its own, all other threads wait for it. In the backward pass of convolutions,
    waiting threads spin and so occupy cores. On two cores that two other programs use, training with two
    threads has a tenth of the speed of training with one.

    Args:
        cores: number of cores.
        others: cores that other programs use.
    """
    taken = max(0, math.ceil(others - TOLERATED))
    if not taken:
        return cores
    # A compiled network is compiled anew for each number of threads. To have few different numbers, the
    # number is rounded down to a multiple of a quarter of the cores.
    unit = max(1, cores // 4)
    return max(1, (cores - taken) // unit * unit)


class CoreMeter:
    """Measures how many cores other programs use, on average since its creation or its last `restart`.

    On systems without /proc/stat it measures 0. Processes of low priority (nice above 0) leave this process
    the cores that it needs, so they do not count. They do count if this process has a low priority too.
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
    """Return the mean number of cores that other programs use, measured over at least `least` seconds."""
    time.sleep(max(0.0, least - meter.seconds))
    return meter.others()


def _allowed() -> set[int]:
    """Return the indices of the processors that this process may use; empty if they are unknown."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _siblings(processor: int) -> str:
    """Return the processors that share a core with this one, such as "0,64"."""
    try:
        return (_PROCESSORS / f"cpu{processor}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(processor)


def _quota() -> int:
    """Return how many cores the cgroup of this process may use, rounded up; 2^31 if there is no limit."""
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
