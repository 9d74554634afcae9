"""The cores of this computer, those that other programs use, and the threads that they leave."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddim.machine import runtime
from ddim.machine.runtime import (
    CoreMeter,
    Runtime,
    choose_runtime,
    choose_threads,
    count_allowed,
    count_cores,
)

LINUX = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no /proc/stat")


@pytest.mark.parametrize(
    ("cores", "others", "threads"),
    [(2, 0.0, 2), (2, 0.3, 2), (2, 0.9, 1), (2, 2.0, 1), (2, 9.0, 1), (1, 1.0, 1), (4, 2.0, 2), (16, 2.0, 12)]
    + [(14, 0.0, 14), (14, 0.3, 14), (14, 0.9, 12)],
)
def test_threads_are_the_cores_that_other_programs_leave_and_at_least_one(cores, others, threads):
    assert choose_threads(cores, others) == threads


def test_a_large_machine_has_few_numbers_of_threads():
    """A compiled network is compiled anew for each, at most eight times."""
    for cores in range(1, 200):
        numbers = {choose_threads(cores, others) for others in range(cores + 1)}
        assert len(numbers) <= 8
        assert max(numbers) == cores


@LINUX
def test_a_program_that_computes_is_measured_and_this_one_is_not():
    meter = CoreMeter()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as program:
        time.sleep(0.6)
        busy = meter.others()
        program.kill()
    assert 0.1 < busy < count_allowed() + 0.3
    meter = CoreMeter()
    began = time.process_time()
    while time.monotonic() < meter.began + 0.4:
        pass
    mine = (time.process_time() - began) / 0.4
    assert meter.others() + mine < count_allowed() + 0.3


@pytest.mark.parametrize(("allowed", "quota", "cores"), [(8, "max", 4), (2, "max", 2), (8, "300000", 3)])
def test_hyper_threads_of_a_core_count_once_and_a_quota_limits_them(allowed, quota, cores, monkeypatch):
    """The kernel's documentation of sysfs and of control groups is the outside source of the files."""

    def read(path, **_):
        if "cgroup" in str(path):
            return f"{quota} 100000\n"
        k = int(path.parts[-3].removeprefix("cpu")) % 4
        return f"{k},{k + 4}\n"

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(allowed)}, raising=False)
    monkeypatch.setattr(Path, "read_text", read)
    assert count_allowed() == cores


def test_the_number_of_cores_does_not_depend_on_the_runtime_around():
    before = count_cores()
    with Runtime(threads=1), Runtime(threads=5):
        assert count_cores() == before


@pytest.mark.parametrize(("others", "threads"), [(0.1, 4), (1.0, 3)])
def test_a_run_gets_the_cores_that_other_programs_leave(others, threads, monkeypatch):
    monkeypatch.setattr(runtime, "count_cores", lambda: 4)
    monkeypatch.setattr(CoreMeter, "others", lambda self: others)
    assert choose_runtime("cpu", "fp32").threads == threads
