"""The compiler runs what it finds in its cache, so nobody else may be able to write there."""

import importlib.machinery
import os
import pickle
import stat
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._inductor import codecache

from ddim.machine.runtime import secure_compiler_cache
from ddim.machine.runtime import Runtime


class Plant:
    """Pickled code: it creates a folder when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A temporary folder of all users; returns the folder in it that torch takes by default."""
    (tmp_path / "shared").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "shared"))
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LOGNAME", "me")
    default = tmp_path / "shared" / "torchinductor_me"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(default))
    for name in ("_HEADER_DIR", "_HEADER_LOCK_DIR"):
        monkeypatch.setattr(codecache, name, str(default / "precompiled_headers"))
    yield default
    torch._dynamo.reset()


def run(net):
    torch._dynamo.reset()
    with torch.no_grad():
        return net(torch.ones(2, 4))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler itself
def test_a_pickle_planted_in_the_shared_folder_of_the_compiler_does_not_run(shared, tmp_path):
    # A lone matrix product is compiled without C++, in a second.
    with torch.random.fork_rng():
        net = nn.Linear(4, 4, bias=False)
    run(torch.compile(net))
    planted = [path for path in shared.rglob("*") if {"fxgraph", "aotautograd"} & set(path.parts)]
    planted = [path for path in planted if path.is_file()]
    assert planted
    for path in planted:
        path.write_bytes(pickle.dumps(Plant(tmp_path / "ran")))
    run(Runtime(compile=True).compiled(net))
    assert not (tmp_path / "ran").exists()


def test_the_folder_of_the_compiler_and_of_its_headers_is_private(shared, tmp_path):
    folder = secure_compiler_cache()
    assert folder == tmp_path / "cache" / "compiler"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
    assert str(folder / "precompiled_headers") == codecache._HEADER_DIR
    assert secure_compiler_cache() == folder


def owned_by_another(path, monkeypatch):
    path.mkdir(parents=True)
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)


def linked(path, monkeypatch):
    path.parent.mkdir()
    (path.parent / "elsewhere").mkdir()
    path.symlink_to(path.parent / "elsewhere")


def writable(path, monkeypatch):
    path.mkdir(parents=True)
    path.chmod(0o770)


def in_a_writable_folder(path, monkeypatch):
    path.mkdir(parents=True)
    path.parent.chmod(0o777)


@pytest.mark.parametrize("plant", [owned_by_another, linked, writable, in_a_writable_folder])
def test_a_folder_that_others_can_change_is_not_used(shared, tmp_path, monkeypatch, plant):
    planted = tmp_path / "cache" / "compiler"
    plant(planted, monkeypatch)
    with pytest.warns(UserWarning, match="set DDIM_CACHE to a folder of your own"):
        folder = secure_compiler_cache()
    assert folder.parent == tmp_path / "shared"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_the_user_has_chosen_is_kept(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    assert secure_compiler_cache() == tmp_path / "mine"
    assert codecache._HEADER_DIR.startswith(str(tmp_path / "mine"))


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="libraries of other systems are no ELF files"
)
def test_libraries_that_a_stopped_compiler_left_incomplete_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    whole = Path(importlib.machinery.PathFinder.find_spec("_ctypes").origin).read_bytes()
    contents = {"whole": whole, "half": whole[: len(whole) // 2], "short": whole[:40], "empty": b""}
    for name, content in (contents | {"linking": b""}).items():
        path = tmp_path / "ab" / f"{name}.main.so"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        if name != "linking":
            os.utime(path, (0, 0))
    secure_compiler_cache()
    assert sorted(path.name for path in (tmp_path / "ab").iterdir()) == ["linking.main.so", "whole.main.so"]
