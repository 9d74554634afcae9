"""Cores that other programs use, the threads they leave, and choices that do not depend on them."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ddim.cli import main
from ddim.errors import UserError
from ddim.machine.runtime import CoreMeter, choose_threads, count_allowed, count_physical, wait_briefly
from ddim.machine.runtime import Runtime, choose_runtime, count_cores, limit_threads

LINUX = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no /proc/stat")


@pytest.mark.parametrize(
    ("cores", "others", "threads"),
    [
        (2, 0.0, 2),
        (2, 0.3, 2),
        (2, 0.9, 1),
        (2, 2.0, 1),
        (2, 9.0, 1),
        (1, 1.0, 1),
        (4, 2.0, 2),
        (16, 2.0, 12),
        (14, 0.0, 14),
        (14, 0.3, 14),
        (14, 0.9, 12),
    ],
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
    meter.restart()
    began = time.process_time()
    while meter.seconds < 0.4:
        pass
    own = (time.process_time() - began) / 0.4
    assert meter.others() + own < count_allowed() + 0.3


def test_the_command_lets_threads_wait_briefly_and_a_function_changes_no_environment(monkeypatch, capsys):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    main(["--version"])
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.setattr(sys, "argv", ["ddim", "--version"])
    main()
    assert os.environ["GOMP_SPINCOUNT"] == "3000"


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "300000")])
def test_the_choice_of_the_user_is_kept(name, value, monkeypatch):
    for each in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, value)
    wait_briefly()
    assert os.environ.get("OMP_WAIT_POLICY", "active") == "active"
    assert os.environ.get("GOMP_SPINCOUNT", "300000") == "300000"


@LINUX
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN")
def test_the_precision_is_that_of_the_instructions_of_the_processor(monkeypatch):
    """The flags that Linux lists are the outside source. A clock that jumps changes nothing."""
    jumps = iter(range(1, 10**6))
    monkeypatch.setattr(time, "perf_counter", lambda: next(jumps) ** 2)
    flags = set(re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[1].split())
    expected = "bf16" if flags & {"avx512_bf16", "amx_bf16"} else "fp32"
    for _ in range(20):
        assert choose_runtime("cpu", compiling=False, threads=1).precision == expected


def test_threads_are_limited_inside_a_block_and_restored():
    before = torch.get_num_threads()
    with limit_threads(3):
        assert torch.get_num_threads() == 3
        with limit_threads(None):
            assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before
    with pytest.raises(UserError, match="threads must be at least 1"), limit_threads(0):
        pass


@pytest.mark.parametrize(("allowed", "quota", "cores"), [(8, 64, 4), (2, 64, 2), (8, 3, 3), (0, 1, 1)])
def test_hyper_threads_of_a_core_count_once(allowed, quota, cores, tmp_path, monkeypatch):
    """The kernel's documentation of sysfs is the outside source of the names of the files."""
    for k in range(allowed):
        folder = tmp_path / f"cpu{k}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{k % 4},{k % 4 + 4}\n")
    monkeypatch.setattr("ddim.machine.runtime._PROCESSORS", tmp_path)
    monkeypatch.setattr("ddim.machine.runtime._allowed", lambda: {*range(allowed)})
    monkeypatch.setattr("ddim.machine.runtime._quota", lambda: quota)
    assert count_physical() == cores


def test_the_number_of_cores_does_not_depend_on_the_runtime_around():
    before = count_cores()
    with Runtime(threads=1), Runtime(threads=5):
        assert count_cores() == before


@pytest.mark.parametrize(("later", "threads"), [(0.1, 4), (1.0, 3)])
def test_a_program_that_runs_for_a_moment_costs_no_thread(later, threads, monkeypatch):
    seen = iter([1.0, later])
    monkeypatch.setattr("ddim.machine.runtime.count_cores", lambda: 4)
    monkeypatch.setattr("ddim.machine.runtime.measure_others", lambda meter, least=0.5: next(seen))
    assert choose_runtime("cpu", "fp32", compiling=False).threads == threads
