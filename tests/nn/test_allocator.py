"""Freed memory is kept. Each case runs in a process of its own, because it cannot be undone."""

import subprocess
import sys

import pytest

from ddim.nn import allocator

CODE = """
import resource
import torch
from ddim.machine.startup import keep_freed_memory

if {keep}:
    keep_freed_memory()
for _ in range(3):
    torch.ones(2**26)  # 256 MB
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
x = torch.ones(2**26)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


def faults(keep):
    """Return the number of page faults of an allocation of 256 MB that were used and freed before."""
    found = subprocess.run(
        [sys.executable, "-c", CODE.format(keep=keep)], capture_output=True, text=True, check=True
    )
    return int(found.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_freed_memory_is_reused_without_asking_the_system():
    # At least one for each 2 MB, or for each 4 kB.
    assert faults(True) < 50 < 100 < faults(False)


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    allocator.keep_freed_memory()
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)
    allocator.keep_freed_memory()
