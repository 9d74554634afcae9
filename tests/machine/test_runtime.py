"""Device, precision, compilation and the settings that a runtime makes for the process."""

import os
import pickle
import re
import stat
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from ddim.cli import main
from ddim.errors import UserError
from ddim.machine import runtime
from ddim.machine.runtime import Runtime, can_compile, choose_runtime, secure_compiler_cache
from oracles import made, normal


def settings():
    """Return what a runtime sets for the process."""
    return torch.get_num_threads(), torch.backends.cudnn.conv.fp32_precision


@pytest.mark.parametrize("enter", [lambda runtime: runtime, Runtime.precise])
def test_a_runtime_holds_inside_its_context_and_is_restored_after_an_exception(enter):
    before, runtime = settings(), Runtime(threads=3)

    def fail():
        with enter(runtime):
            assert settings() == (3, "ieee")
            # The same runtime again, and another one.
            with runtime, enter(replace(runtime, threads=2)):
                assert settings() == (2, "ieee")
            assert settings() == (3, "ieee")
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert settings() == before


def test_runtimes_of_two_threads_do_not_restore_each_others_settings():
    """The first thread leaves while the second is inside."""
    before, inside, left = settings(), threading.Barrier(2, timeout=30), threading.Event()
    restored = []

    def other():
        first = torch.get_num_threads()
        with Runtime(threads=2):
            inside.wait()
            left.wait(30)
        restored.append(torch.get_num_threads() == first)

    thread = threading.Thread(target=other)
    thread.start()
    with Runtime(threads=3):
        inside.wait()
    assert torch.get_num_threads() == before[0]
    left.set()
    thread.join(30)
    assert restored == [True]
    assert settings() == before


@pytest.mark.parametrize("device", ["mps", "mps:0"])
def test_an_apple_gpu_gets_float32_and_waits_for_copies(device, monkeypatch):
    class Image:
        def to(self, device, *, non_blocking):
            return device, non_blocking

    monkeypatch.setattr(runtime, "find_device", lambda wanted: wanted)
    chosen = choose_runtime(device)
    assert (chosen.precision, chosen.channels_last, chosen.exact_device) == ("fp32", False, "cpu")
    assert chosen.images(Image()) == (device, False)
    assert Runtime("cuda:1").move(Image()) == ("cuda:1", True)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no /proc/cpuinfo")
def test_the_precision_is_that_of_the_instructions_of_the_processor():
    """The flags that Linux lists are the outside source."""
    flags = set(re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[1].split())
    expected = "bf16" if flags & {"avx512_bf16", "amx_bf16"} else "fp32"
    before = settings()
    assert choose_runtime("cpu", threads=1).precision == expected
    assert choose_runtime("cpu", "fp32", threads=1).precision == "fp32"
    assert settings() == before


@pytest.mark.parametrize(
    ("choice", "word"),
    [(("abacus",), "device"), (("cpu", "fp16"), "precision"), (("cpu", "fp32", None, 0), "threads")],
)
def test_a_wrong_choice_is_refused(choice, word):
    with pytest.raises(UserError, match=word):
        choose_runtime(*choice)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is")  # of the compiler itself
def test_a_frozen_network_equals_the_network_and_keeps_rounded_weights():
    """Equal up to rounding to 8 bits; changing the weights has no effect."""
    runtime = Runtime(precision="bf16", compile=True)
    net = made(lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)))
    x = runtime.images(normal(2, 3, 8, 8, dtype=torch.float32))
    quick = runtime.compiled(runtime.place(net.eval()), frozen=True)
    with runtime.precise(), torch.no_grad():
        torch.testing.assert_close(quick(x), net(x), rtol=0, atol=0.02)
        assert net(x).std() > 0.1
        for parameter in net.parameters():
            parameter.zero_()
        assert not net(x).any()
        assert quick(x).any()
    # Calls that record gradients use the weights as they are now.
    assert not quick(x).any()


def test_a_network_runs_without_compilation_where_torch_cannot_compile(monkeypatch):
    def fail(function):
        raise RuntimeError("no g++\nand a long story")

    can_compile.cache_clear()
    monkeypatch.setattr(torch, "compile", fail)
    with pytest.warns(UserWarning, match="no g\\+\\+"):
        assert not choose_runtime("cpu", "fp32", compiling=True, threads=1).compile
    net = nn.Identity()
    assert Runtime(compile=True).compiled(net) is net
    can_compile.cache_clear()


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
    can_compile.cache_clear()
    yield default
    torch._dynamo.reset()
    can_compile.cache_clear()


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
    before = {path for path in shared.rglob("*") if path.is_file()}
    run(Runtime(compile=True).compiled(net))
    assert not (tmp_path / "ran").exists()
    assert {path for path in shared.rglob("*") if path.is_file()} == before


def test_the_folder_of_the_compiler_is_private_or_that_of_the_user(shared, tmp_path, monkeypatch):
    secure_compiler_cache()
    folder = tmp_path / "cache" / "compiler"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    secure_compiler_cache()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "mine")


@pytest.mark.parametrize("plant", ["owned by another", "link", "open to the group"])
def test_nothing_is_compiled_in_a_folder_that_others_can_change(shared, tmp_path, monkeypatch, plant):
    folder, user = tmp_path / "cache" / "compiler", os.getuid()
    folder.mkdir(parents=True)
    folder.chmod(0o770 if plant == "open to the group" else 0o700)
    if plant == "link":
        folder.rename(tmp_path / "elsewhere").chmod(0o777)
        folder.symlink_to(tmp_path / "elsewhere")
    if plant == "owned by another":
        monkeypatch.setattr(os, "getuid", lambda: user + 1)
    with pytest.warns(UserWarning, match="DDIM_CACHE"):
        assert not can_compile("cpu")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(shared)


@pytest.mark.parametrize("given", ["", "active"])
def test_the_command_lets_threads_wait_briefly_unless_the_user_chose(given, monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", given) if given else monkeypatch.delenv("OMP_WAIT_POLICY", False)
    before = {**os.environ}
    main(["--version"])
    assert os.environ == before
    monkeypatch.setattr(sys, "argv", ["ddim", "--version"])
    main()
    assert os.environ == before | ({} if given else {"GOMP_SPINCOUNT": "3000"})
