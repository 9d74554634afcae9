"""Files of others: tensors come out, nothing runs, and no file takes more memory or time than its size."""

import collections
import os
import pickle
import resource
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from canary import watched
from ddim.errors import UserError
from ddim.runs.tensor_file import open_tensors
from hostile_checkpoints import (
    Runs,
    bomb,
    brackets,
    eval_in_torch,
    expanded,
    harmful,
    imaginary,
    legacy,
    many,
    nested,
    not_a_dictionary,
    odd_name,
    old_format,
    sparse,
    storage_bomb,
    truncated,
    whole_model,
)


def read(path):
    with watched(), open_tensors(path) as file:
        return {name: file.read(name) for name in file.shapes}


def refused(path, said="cannot be"):
    """The sentence with which a file is refused."""
    with pytest.raises(UserError, match=said) as error:
        read(path)
    text = str(error.value)
    assert "\n" not in text
    assert text.isprintable()
    assert len(text) < 500
    return text


def test_tensors_of_nested_dictionaries_come_out_with_their_names(tmp_path):
    weight = torch.arange(6.0).reshape(2, 3)
    content = {
        "step": 3,
        "version": "2.3",
        "opt": {"state": {0: {"exp": torch.ones(2)}}},
        "model": {"a.weight": weight, "half": weight.half(), "view": weight.T},
        "ema": collections.OrderedDict(initted=torch.tensor([True]), other=torch.nn.Parameter(weight)),
    }
    torch.save(content, tmp_path / "model.pt")
    found = read(tmp_path / "model.pt")
    assert found.keys() == {"model/a.weight", "model/half", "model/view", "ema/initted", "ema/other"}
    assert torch.equal(found["model/view"], weight.T)
    assert all(value.dtype == torch.float32 for value in found.values())


# Pickles. Each of them starts a process that imports torch, which takes a second or two.


PICKLES = [
    (harmful, "holds more than tensors"),
    (legacy, "holds more than tensors"),
    (old_format, "holds more than tensors"),
    (eval_in_torch, "holds more than tensors"),
    (bomb, "far more memory|holds more than tensors"),
    (storage_bomb, "larger than the file|far more memory|damaged"),
    (expanded, "larger than the file|damaged"),
    (nested, "nested more than 4 deep"),
    (brackets, "not a dictionary of tensors|damaged|far more memory"),
    (odd_name, "has a name that is not printable"),
    (truncated, "damaged"),
    (whole_model, "holds more than tensors"),
    (sparse, "not a plain tensor|damaged"),
    (not_a_dictionary, "not a dictionary of tensors"),
    (many, "more than 100,000 entries"),
    (imaginary, "not a plain tensor of numbers"),
]
QUICK = (harmful, expanded)


@pytest.mark.parametrize(
    "write, said",
    [
        pytest.param(*row, marks=() if row[0] in QUICK else pytest.mark.slow, id=row[0].__name__)
        for row in PICKLES
    ],
)
def test_hostile_pickles_are_refused_in_one_sentence_and_run_nothing(write, said, tmp_path):
    path, canary = tmp_path / "model.pt", tmp_path / "canary"
    write(path, canary)
    assert "cannot be read as a checkpoint" in refused(path, said)
    assert not canary.exists()
    assert {found.name for found in tmp_path.iterdir()} == {"model.pt"}


def run_first(site, monkeypatch, code):
    """Let each Python process that starts from now on run this code first; `site` is a new folder for it."""
    site.mkdir()
    (site / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def test_code_that_passed_the_first_fence_ends_the_process(tmp_path, monkeypatch):
    """With an unpickler that runs everything, in place of the one of torch."""
    path, canary = tmp_path / "model.pt", tmp_path / "canary"
    path.write_bytes(pickle.dumps({"a": Runs(os.system, f"touch {canary}")}))
    run_first(
        tmp_path / "site",
        monkeypatch,
        "import pickle, sys\n"
        "def late(event, args):\n"
        "    torch = sys.modules.get('torch')\n"
        "    if event == 'open' and str(args[0]) in ('/proc/self/statm', '/dev/null') and torch:\n"
        "        torch.load = lambda path, **options: pickle.loads(open(path, 'rb').read())\n"
        "sys.addaudithook(late)\n",
    )
    assert "it tries to run code" in refused(path)
    assert not canary.exists()


def test_a_system_that_refuses_the_limit_of_the_memory_keeps_the_other_limits(tmp_path, monkeypatch):
    """As macOS does; the names of the limits that are set go to a file."""
    names = tmp_path / "names"
    torch.save({"a": torch.ones(3)}, tmp_path / "model.pt")
    run_first(
        tmp_path / "site",
        monkeypatch,
        "import resource\n"
        "def limit(kind, limits):\n"
        "    if kind == resource.RLIMIT_AS:\n"
        "        raise ValueError('current limit exceeds maximum limit')\n"
        f"    print(kind, file=open({str(names)!r}, 'a'))\n"
        "resource.setrlimit = limit\n",
    )
    assert torch.equal(read(tmp_path / "model.pt")["a"], torch.ones(3))
    assert names.read_text().split() == [str(resource.RLIMIT_CPU), str(resource.RLIMIT_FSIZE)]


def test_modules_in_the_current_folder_are_not_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(3)}, "model.pt")
    for name in ("torch", "json", "safetensors", "numpy", "ddim"):
        Path(f"{name}.py").write_text("open('canary', 'w')")
    assert read(Path("model.pt")).keys() == {"a"}
    assert not Path("canary").exists()


# Files that no process of its own is needed for.


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "empty.pt").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    with (tmp_path / "huge.pt").open("wb") as file:
        file.truncate(2**40)
    for name in ("none", "empty", "pipe", "zero", "huge"):
        refused(tmp_path / f"{name}.pt", "is not a file|must have 9 bytes")


def safetensors(header, length=None):
    return struct.pack("<Q", len(header) if length is None else length) + header


@pytest.mark.parametrize(
    "content",
    [
        b"not safetensors at all",
        safetensors(b"{}", 2**62),
        safetensors(b"{" * 10**5),
        safetensors(b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'),
        safetensors(b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}'),
        safetensors(b'{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}') + bytes(4),
        safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}') + bytes(4),
    ],
)  # fmt: skip
def test_damaged_safetensors_are_refused_in_one_sentence(content, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert "cannot be read as safetensors" in refused(path)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    save_file({"a\n": torch.tensor([1.0, float("nan")])}, tmp_path / "model.safetensors")
    assert r"a? has infinite numbers or NaN" in refused(tmp_path / "model.safetensors", "cannot be used")
