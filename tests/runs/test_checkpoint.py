import errno
import itertools
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import crash
from damage import damage_file, flip_bit
from ddim.diffusion.pixels import Pixels
from ddim.errors import NoSpace, NotFinite, Notice, UserError
from ddim.machine.runtime import Runtime
from ddim.recipe.codec import load_value
from ddim.runs import checkpoint
from ddim.runs.checkpoint import Damaged, read_document, read_newest, read_tensors, save, verify
from ddim.runs.state import Plan, RunState, TrainedOn
from forging import forge_checkpoint
from programmes import run_script


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_tensors_come_back_bit_for_bit(tmp_path):
    stream = torch.Generator().manual_seed(0)
    base = torch.randn(2, 3, 4, 5, generator=stream)
    odd = torch.tensor([0x7F7F_FFFF, -0x8000_0000, 1], dtype=torch.int64).to(torch.int32)
    group = {
        "channels_last": base.to(memory_format=torch.channels_last),
        "view": base[:, 1],
        "same memory": base,
        "bfloat16": base.bfloat16(),
        "the largest, -0, the smallest": odd.view(torch.float32),
        "scalar": torch.tensor(2**40 + 1),
        "empty": torch.empty(0, 3),
        "learnt": torch.nn.Parameter(base.double()),
    }
    read = read_tensors(save(tmp_path, 1, {"model": group}, {}), "model")
    assert read.keys() == group.keys()
    for name, tensor in group.items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape)
        there, here = (x.detach().contiguous().flatten().view(torch.uint8) for x in (read[name], tensor))
        assert torch.equal(there, here), name


def test_tensors_that_are_not_finite_are_refused_and_the_last_checkpoint_stays(tmp_path):
    before = crash.put(tmp_path, 1)
    for group, value in (("model", math.nan), ("ema/default", math.inf), ("optimizer", math.nan)):
        tensors, documents = crash.content(2)
        name, tensor = next(iter(tensors[group].items()))
        tensor.view(-1)[-1] = value
        with pytest.raises(NotFinite, match=f"{name} in {group}"):
            save(tmp_path, 2, tensors, documents)
    assert list(tmp_path.iterdir()) == [before]


def test_documents_come_back_exactly(tmp_path):
    floats = [0.1, 5e-324, -0.0, 1.7976931348623157e308]
    document = {"floats": floats, "seed": 2**200 + 1, "name": "Blüte\n", "deep": [{"a": [True, None]}]}
    assert repr(read_document(save(tmp_path, 3, {}, {"recipe": document}), "recipe")) == repr(document)
    for wrong in ({"loss": math.nan}, {"path": Path("x")}):
        with pytest.raises((ValueError, TypeError)):
            save(tmp_path, 4, {}, {"state": wrong})
    assert names(tmp_path) == ["step-000000003"]


def test_the_state_of_a_run_comes_back(tmp_path):
    state = RunState(3, Pixels.fixed(0.5, 0.5, 3), 3, ("a", "none"), Runtime(threads=2), sums={"loss": 0.5})
    more = {"best": 0.5, "plan": Plan(960, 96, 0.1), "images": TrainedOn("ab", 90), "stopped": "enough"}
    for each in (state, replace(state, **more, due=True)):
        path = save(tmp_path, 3, {}, {"state": each.to_json()})
        assert load_value(read_document(path, "state"), RunState) == each
    lost = replace(state, sums={"loss": math.inf}).to_json()
    assert math.isnan(load_value(lost, RunState).sums["loss"])


def test_a_checkpoint_folder_has_the_documented_files(tmp_path):
    path = crash.put(tmp_path / "run" / "checkpoints", 123)
    assert path == tmp_path / "run" / "checkpoints" / "step-000000123"
    tensors = ["ema/default.safetensors", "model.safetensors", "optimizer.safetensors"]
    files = [file.relative_to(path).as_posix() for file in path.rglob("*.*")]
    assert sorted(files) == ["MANIFEST.json", *tensors, "recipe.json", "state.json"]


# Which are kept, which is found


def test_the_newest_and_the_best_checkpoints_are_kept(tmp_path):
    assert read_newest(tmp_path / "missing", verify) is None
    for step in (10, 20, 300_000_000, 4_000_000_000):
        crash.put(tmp_path, step, keep=2, best=step <= 20)
    assert names(tmp_path) == ["step-000000020", "step-300000000", "step-4000000000"]
    assert crash.label(read_newest(tmp_path, verify)) == (4_000_000_000, 0)
    assert crash.label(read_newest(tmp_path, verify, best=True)) == (20, 0)
    checkpoint.remove_later(tmp_path, 20)
    assert names(tmp_path) == ["step-000000020"]
    crash.put(tmp_path, 60, keep=1)
    crash.put(tmp_path, 70, keep=1, best=True)
    assert names(tmp_path) == ["step-000000070"]


# Crashes and full disks


def test_a_kill_or_power_cut_before_any_change_leaves_the_old_or_the_new(tmp_path):
    """Checkpoints, files and folders; what is read never goes back from the new to the old."""
    report, states = run_script("crash", tmp_path), 0
    assert report.pop("faults") == []
    for name, (read, cuts) in report.items():
        assert len(read) > (4 if name == "file" else 8), name
        assert read == sorted(read), name
        assert cuts > 4
        states += cuts
    assert states > 300


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, NoSpace), (errno.EIO, UserError)])
def test_a_failure_of_any_system_call_leaves_the_old_or_the_new(code, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    for n in itertools.count(1):
        run = tmp_path / str(n)
        crash.put(run, 10)
        error = None
        with crash.failing(n, code) as failed:
            try:
                crash.put(run, 20)
            except (OSError, UserError) as caught:
                error = caught
        if not failed:
            break
        # None: what failed did not matter, as making a folder that is there already.
        assert type(error) in {kind, type(None)}
        assert crash.label(read_newest(run, verify)) in {(20, 0), (10, 0) if error else (20, 0)}
        assert not [name for name in names(run) if name.startswith(".tmp")]
        assert crash.label(crash.put(run, 20, 1)) == (20, 1)
        shutil.rmtree(run)
    assert n > 15


def test_a_checkpoint_that_is_removed_while_it_is_read_is_read_again(tmp_path):
    crash.put(tmp_path, 20)
    changes = [lambda: crash.put(tmp_path, 30, keep=1)]

    def read(path):
        state = read_document(path, "state")
        if changes:
            changes.pop()()
        return state, read_document(path, "recipe")

    state, recipe = checkpoint.read_newest(tmp_path, read)
    assert (state["step"], recipe["name"]) == (30, "30-0")


def test_what_a_checkpoint_lacks_is_no_damage(tmp_path):
    path = crash.put(tmp_path, 20)
    with pytest.raises(UserError, match=r"no ema/wide\.safetensors; it has .*ema/default"):
        checkpoint.read_newest(tmp_path, lambda path: read_tensors(path, "ema/wide"))
    assert read_newest(tmp_path, verify) == path


# Damage; more of it in test_damages.py


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints of steps 10 and 20."""
    for step in (10, 20):
        crash.put(tmp_path / "run", step)
    return tmp_path / "run"


def copy_other_step(path):
    shutil.rmtree(path)
    shutil.copytree(path.with_name("step-000000010"), path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda path: damage_file(path / "model.safetensors", flip_bit), "model.safetensors: its bytes have"),
        (lambda path: (path / "state.json").unlink(), "state.json is missing"),
        (lambda path: damage_file(path / "MANIFEST.json", flip_bit), "MANIFEST.json is missing or has"),
        (
            lambda path: (path / "ema" / "wide.safetensors").touch(),
            "wide.safetensors is missing or does not belong",
        ),
        (copy_other_step, "step 10"),
    ],
)
def test_damage_is_named_and_the_checkpoint_is_set_aside(change, word, run):
    change(run / "step-000000020")
    with pytest.raises(Damaged, match=word):
        verify(run / "step-000000020")
    with pytest.warns(Notice, match="skipped") as notices:
        assert crash.label(read_newest(run, verify)) == (10, 0)
    assert len(notices) == 1
    # A training may be saving the checkpoint again, so that only the writer of the run may rename it.
    assert names(run) == ["step-000000010", "step-000000020"]
    with pytest.warns(Notice, match="skipped, as damaged-"):
        read_newest(run, verify, writes=True)
    assert names(run) == ["damaged-step-000000020-1", "step-000000010"]


def test_reading_finds_damage_by_itself(run):
    path = run / "step-000000020"
    for name, read in (("model.safetensors", read_tensors), ("recipe.json", read_document)):
        damage_file(path / name, flip_bit)
        with pytest.raises(Damaged, match=name):
            read(path, name.split(".")[0])
    with pytest.warns(Notice, match="skipped"):
        assert checkpoint.read_newest(run, lambda path: read_document(path, "recipe")) == {"name": "10-0"}


def test_hashed_files_of_a_wrong_format_are_damage(tmp_path):
    path = forge_checkpoint(tmp_path / "a", {"state.json": b"[1", "model.safetensors": b"x"})
    for name, read in (("state", read_document), ("model", read_tensors)):
        with pytest.raises(Damaged, match=rf"{name}\.\w+ is not"):
            read(path, name)
    with pytest.raises(Damaged, match=r"state.json is missing"):
        verify(forge_checkpoint(tmp_path / "b", {}, files={"../a/state.json": "0" * 64}))


def test_damaged_checkpoints_are_skipped_until_none_is_left(tmp_path):
    for step in (10, 20, 30):
        crash.put(tmp_path, step, keep=9, best=step < 30)
    (tmp_path / "step-000000020" / "model.safetensors").write_bytes(b"")
    with pytest.warns(Notice):
        assert crash.label(read_newest(tmp_path, verify, best=True, writes=True)) == (10, 0)
    for step in (30, 10):
        (tmp_path / f"step-{step:09d}" / "state.json").unlink()
    with pytest.warns(Notice, match=r"state\.json is missing"):
        assert read_newest(tmp_path, verify, writes=True) is None
    assert len(names(tmp_path)) == 3


def test_a_checkpoint_that_is_removed_while_it_is_read_is_skipped(run):
    def read(path):
        if path.name == "step-000000020":
            shutil.rmtree(path)
        return checkpoint.hash_checkpoint(path)

    assert read_newest(run, read) == checkpoint.hash_checkpoint(run / "step-000000010")
