"""Trainings compile only where torch finds all that it needs; each system is simulated."""

from types import SimpleNamespace

import pytest
import torch

from ddim.machine.runtime import can_compile


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """Pretend to be on another machine; the fixture is a function of its properties."""
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)

    def machine(platform, found, header=True, tools=False, triton=True, capability=(8, 0), **variables):
        monkeypatch.setattr("sys.platform", platform)
        monkeypatch.setattr("shutil.which", lambda name: name if name in found else None)
        monkeypatch.setattr("subprocess.run", lambda *_, **options: SimpleNamespace(returncode=not tools))
        monkeypatch.setattr("sysconfig.get_path", lambda name, scheme: str(tmp_path))
        monkeypatch.setattr("ddim.machine.runtime.find_spec", lambda name: object() if triton else None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        if header:
            (tmp_path / "Python.h").touch()

    return machine


@pytest.mark.parametrize(
    ("machine", "compiling"),
    [
        ({"platform": "linux", "found": {"g++"}}, True),
        ({"platform": "linux", "found": {"g++"}, "header": False}, False),
        ({"platform": "linux", "found": {"clang++"}}, False),
        ({"platform": "linux", "found": {"clang++"}, "CXX": "clang++"}, True),
        ({"platform": "win32", "found": {"cl"}}, True),
        ({"platform": "win32", "found": {"g++", "clang++"}}, False),
        ({"platform": "win32", "found": {"clang-cl"}, "CXX": "clang-cl"}, True),
        ({"platform": "darwin", "found": {"g++", "clang++"}}, False),
        ({"platform": "darwin", "found": {"g++", "clang++"}, "tools": True, "header": False}, True),
    ],
)
def test_a_processor_needs_the_compiler_that_torch_will_call_and_the_header_of_python(
    machine, compiling, pretend
):
    pretend(**machine)
    assert can_compile("cpu") == compiling
    assert not can_compile("mps")


@pytest.mark.parametrize(
    ("machine", "compiling"),
    [
        ({"platform": "linux", "found": {"gcc"}}, True),
        ({"platform": "linux", "found": {"clang"}}, True),
        ({"platform": "linux", "found": set()}, False),
        ({"platform": "linux", "found": {"gcc"}, "CC": "icx"}, False),
        ({"platform": "linux", "found": {"gcc"}, "header": False}, False),
        ({"platform": "linux", "found": {"gcc"}, "triton": False}, False),
        ({"platform": "linux", "found": {"gcc"}, "capability": (6, 1)}, False),
        ({"platform": "win32", "found": set(), "header": False}, True),
    ],
)
def test_a_gpu_needs_triton_and_what_triton_calls(machine, compiling, pretend):
    """The sources of Triton are the outside source: `build.py` looks for $CC, gcc and clang."""
    pretend(**machine)
    assert can_compile("cuda:1") == compiling
