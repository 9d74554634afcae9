"""Memory that is freed is kept; each case in a process of its own, for it cannot be undone."""

import subprocess
import sys

import pytest

CODE = """
import resource
import torch
from ddim.nn import allocator as memory

if {keep}:
    memory.keep()
for _ in range(20):
    torch.ones(2**26)  # 256 MB
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
x = torch.ones(2**26)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


def faults(keep):
    """Pages that the system hands out for 256 MB, which have been used and freed before."""
    found = subprocess.run(
        [sys.executable, "-c", CODE.format(keep=keep)], capture_output=True, text=True, check=True
    )
    return int(found.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_memory_that_was_freed_is_had_again_without_asking_the_system():
    # At least one for each 2 MB, or for each 4 kB.
    assert faults(True) < 50 < 100 < faults(False)


def test_where_there_is_no_such_allocator_nothing_is_done(monkeypatch):
    from ddim.nn import allocator as memory

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    memory.keep()
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    memory.keep()
