import errno
import itertools
import json
import math
import os
import random
import re
import shutil
import threading
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import crash
from crash import crashed
from damage import damage_file, flip_bit
from ddim.diffusion.pixels import Pixels
from ddim.errors import NoSpace, NotFinite, Notice, UserError
from ddim.machine.runtime import Runtime
from ddim.runs import checkpoint, manifest
from ddim.runs.checkpoint import Damaged, find_best, find_newest, read_document, read_tensors, save, verify
from ddim.runs.state import RunState
from ddim.sampling.pipeline import load_state


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# What goes in comes out


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
        "bits": torch.tensor([True, False]),
        "learnt": torch.nn.Parameter(base.double()),
    }
    read = read_tensors(save(tmp_path, 1, {"model": group}, {}), "model")
    assert read.keys() == group.keys()
    for name, tensor in group.items():
        assert read[name].dtype == tensor.dtype
        assert read[name].shape == tensor.shape
        there, here = (x.detach().contiguous().flatten().view(torch.uint8) for x in (read[name], tensor))
        assert torch.equal(there, here), name


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("group", ["model", "ema/default", "optimizer"])
def test_tensors_that_are_not_finite_are_refused_and_the_last_checkpoint_stays(group, value, tmp_path):
    before = crash.put(tmp_path, 1)
    tensors, documents = crash.content(2)
    name, tensor = next(iter(tensors[group].items()))
    tensor.view(-1)[-1] = value
    with pytest.raises(NotFinite, match=f"step-000000002 was not written, because {name} in {group}"):
        save(tmp_path, 2, tensors, documents)
    assert list(tmp_path.iterdir()) == [before]
    assert crash.label(find_newest(tmp_path)) == (1, 0)


def test_documents_come_back_exactly(tmp_path):
    draw = random.Random(0)
    floats = [0.1, 5e-324, -0.0, 1.7976931348623157e308, 1 / 3] + [
        draw.gauss(0, 1) * 10**k for k in range(-99, 99)
    ]
    document = {
        "floats": floats,
        "seed": 2**200 + 1,
        "name": "Blüte\n",
        "none": None,
        "deep": [{"a": [True]}],
    }
    path = save(tmp_path, 3, {}, {"recipe": document})
    assert repr(read_document(path, "recipe")) == repr(document)


def test_equal_content_has_an_equal_digest_and_other_content_another(tmp_path):
    paths = [crash.put(tmp_path / name, 7, version) for name, version in (("a", 0), ("b", 0), ("c", 1))]
    first, same, other = map(checkpoint.hash_checkpoint, paths)
    assert first == same != other


def test_a_checkpoint_folder_has_the_documented_files(tmp_path):
    path = crash.put(tmp_path / "run" / "checkpoints", 123)
    assert path == tmp_path / "run" / "checkpoints" / "step-000000123"
    files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    tensors = [f"{name}.safetensors" for name in ("ema/default", "model", "optimizer")]
    assert files == ["MANIFEST.json", *tensors, "recipe.json", "state.json"]
    assert json.loads((path / "MANIFEST.json").read_text())["schema"] == 1


@pytest.mark.parametrize("document", [{"loss": float("nan")}, {"loss": float("inf")}, {"path": Path("x")}])
def test_documents_that_are_not_json_are_refused_before_any_file_changes(document, tmp_path):
    crash.put(tmp_path, 1)
    with pytest.raises((ValueError, TypeError)):
        save(tmp_path, 2, {}, {"state": document})
    assert names(tmp_path) == ["step-000000001"]


@pytest.mark.parametrize("name", ["../model", "/model", "a//b", "", ".hidden", "a\\b", "MANIFEST", "a\n"])
def test_names_that_lead_outside_the_folder_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="cannot be named"):
        save(tmp_path / "run", 2, {name: {}}, {})
    with pytest.raises(ValueError, match="cannot be named"):
        save(tmp_path / "run", 2, {}, {name: {}})
    assert names(tmp_path) == []


def test_a_missing_part_is_named_with_the_existing_parts(tmp_path):
    path = crash.put(tmp_path, 1)
    with pytest.raises(
        UserError, match=r"no ema/wide\.safetensors; it has .*ema/default\.safetensors"
    ) as caught:
        read_tensors(path, "ema/wide")
    assert not isinstance(caught.value, Damaged)


def test_steps_and_counts_out_of_range_are_refused(tmp_path):
    assert crash.label(crash.put(tmp_path, 0, keep=1)) == (0, 0)
    with pytest.raises(UserError, match="step -1"):
        crash.put(tmp_path, -1)
    with pytest.raises(UserError, match="keep 0"):
        crash.put(tmp_path, 1, keep=0)


# Which are kept, which is found


def test_the_newest_checkpoint_has_the_highest_step(tmp_path):
    assert find_newest(tmp_path / "missing") is None
    assert find_newest(tmp_path) is None
    for step in (9, 1_000_000_000, 123_456_789):
        crash.put(tmp_path, step, keep=9)
    assert crash.label(find_newest(tmp_path)) == (1_000_000_000, 0)
    assert find_best(tmp_path) is None


def test_the_newest_and_the_best_checkpoints_are_kept(tmp_path):
    marks = {10: True, 20: True, 30: False, 40: False, 50: False}
    for step, mark in marks.items():
        crash.put(tmp_path, step, keep=2, best=mark)
    assert names(tmp_path) == [f"step-{step:09d}" for step in (20, 40, 50)]
    assert crash.label(find_best(tmp_path)) == (20, 0)
    crash.put(tmp_path, 60, keep=1, best=True)
    assert names(tmp_path) == ["step-000000060"]
    assert find_best(tmp_path) == find_newest(tmp_path)


def test_a_damaged_checkpoint_does_not_count_as_kept(tmp_path):
    for step in (10, 20):
        crash.put(tmp_path, step)
    (tmp_path / "step-000000020" / "state.json").write_text("{}")
    crash.put(tmp_path, 30, keep=2)
    assert "step-000000010" in names(tmp_path)


def test_the_same_step_can_be_saved_again(tmp_path):
    for version in (0, 0, 1):
        path = crash.put(tmp_path, 5, version)
        assert crash.label(path) == crash.label(find_newest(tmp_path)) == (5, version)
    assert names(tmp_path) == ["step-000000005"]


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path):
    (crash.put(tmp_path, 5) / "model.safetensors").unlink()
    crash.put(tmp_path, 5, 1)
    assert crash.label(find_newest(tmp_path)) == (5, 1)
    assert names(tmp_path) == ["step-000000005"]


def test_the_newer_of_two_checkpoints_of_a_step_is_used_unless_damaged(tmp_path):
    crash.put(tmp_path, 5)
    other = crash.put(tmp_path / "other", 5, 1)
    fresh = tmp_path / "step-000000005.new"
    shutil.move(other, fresh)
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert crash.label(find_newest(tmp_path)) == (5, 1)
    crash.put(tmp_path, 6)
    assert crash.label(tmp_path / "step-000000005") == (5, 1)
    assert names(tmp_path) == ["copy", "other", "step-000000005", "step-000000006"]
    (tmp_path / "copy" / fresh.name / "state.json").unlink()
    crash.put(tmp_path / "copy", 6)
    assert names(tmp_path / "copy")[0] == "damaged-step-000000005-1"
    assert crash.label(tmp_path / "copy" / "step-000000005") == (5, 0)


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    (tmp_path / ".tmp-1-step-000000001" / "ema").mkdir(parents=True)
    (tmp_path / ".tmp-1-step-000000001" / "ema" / "x.safetensors").write_bytes(b"x")
    (tmp_path / ".tmp-2").write_bytes(b"x")
    elsewhere = tmp_path / "mine"
    elsewhere.mkdir()
    (tmp_path / ".tmp-3").symlink_to(elsewhere)
    assert find_newest(tmp_path) is None
    crash.put(tmp_path, 1)
    assert names(tmp_path) == ["mine", "step-000000001"]


# Crashes (R2, R3) and full disks


def test_a_kill_before_any_change_leaves_the_old_or_the_new(tmp_path):
    """Checkpoints, averages, files and folders; what is read is first the old (0), then the new (1)."""
    for name, read in crashed("kills", tmp_path).items():
        assert len(read) > (4 if name == "file" else 8), name
        assert read == sorted(read), name
        assert set(read) == {0, 1}, name


def test_a_power_cut_before_any_change_leaves_the_old_or_the_new(tmp_path):
    states = crashed("replay", tmp_path)
    assert min(states.values()) > 4
    assert sum(states.values()) > 300


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, NoSpace), (errno.EIO, OSError)])
def test_a_failure_of_any_system_call_leaves_the_old_or_the_new(code, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    for n in itertools.count(1):
        run = tmp_path / str(n)
        crash.put(run, 10)
        error = None
        with crash.failing(n, code) as failed:
            try:
                crash.put(run, 20)
            except OSError as caught:
                error = caught
        if not failed:
            break
        # None: what failed did not matter, as making a folder that is there already.
        assert type(error) in {kind, type(None)}
        assert crash.label(find_newest(run)) in {(20, 0), (10, 0) if error else (20, 0)}
        assert names(run)[0] == "step-000000010"
        assert not [name for name in names(run) if name.startswith(".tmp")]
        assert crash.label(crash.put(run, 20, 1)) == (20, 1)
        shutil.rmtree(run)
    assert n > 20


def test_a_checkpoint_that_is_replaced_or_removed_while_it_is_read_is_read_again(tmp_path):
    """A training saves a checkpoint of the same step again, and removes old ones."""
    for change in (lambda: crash.put(tmp_path, 20, 1), lambda: crash.put(tmp_path, 30, keep=1)):
        crash.put(tmp_path, 20)
        changes = [change]

        def read(path, changes=changes):
            state = checkpoint.read_document(path, "state")
            if changes:
                changes.pop()()
            return state, checkpoint.read_document(path, "recipe")

        state, recipe = checkpoint.read_steadily(lambda: find_newest(tmp_path), read)
        assert recipe["name"] == f"{state['step']}-{state['version']}"
        assert (state["step"], state["version"]) == crash.label(find_newest(tmp_path))
    # A checkpoint that is damaged itself is not read for ever.
    damage_file(find_newest(tmp_path) / "state.json", flip_bit)
    with pytest.raises(Damaged):
        checkpoint.read_steadily(lambda: tmp_path / "step-000000030", verify)


def test_a_full_disk_is_noticed_before_writing(tmp_path, monkeypatch):
    crash.put(tmp_path, 1)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**6, 10**6))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda *_: pytest.fail("it wrote"))
        with pytest.raises(NoSpace, match=r"needs 4\.0 MB and .* has 1\.0 MB free") as caught:
            save(tmp_path, 2, {"model": {"w": torch.zeros(736_000)}}, {})
    assert isinstance(caught.value, OSError)
    assert crash.label(find_newest(tmp_path)) == (1, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 10**7))
    assert crash.label(crash.put(tmp_path, 2)) == (2, 0)


def test_space_for_the_tensors_and_one_mebibyte_is_enough(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    free = 2**20 + 4 * 1000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, free - 1))
    with pytest.raises(NoSpace):
        save(tmp_path, 1, {"model": {"w": torch.zeros(1000)}}, {})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, free))
    assert save(tmp_path, 1, {"model": {"w": torch.zeros(1000)}}, {}).is_dir()


def test_a_reader_never_harms_a_checkpoint_that_is_being_replaced(tmp_path):
    crash.put(tmp_path, 5)
    writer = threading.Thread(target=lambda: [crash.put(tmp_path, 5, k, keep=1) for k in range(40)])
    writer.start()
    found = []
    while writer.is_alive():
        found.append(find_newest(tmp_path))
    writer.join()
    assert None not in found
    assert names(tmp_path) == ["step-000000005"]


def test_a_new_folder_with_a_reused_inode_number_is_not_taken_for_the_old_one(tmp_path, monkeypatch):
    """File systems give the number of a folder that was removed to the next one."""
    crash.put(tmp_path, 5)
    verified, stat = checkpoint.verify, Path.stat

    def numbered(path, **options):
        found = stat(path, **options)
        values = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
        return SimpleNamespace(**{**values, "st_ino": 1})

    def overtaken(path):
        monkeypatch.setattr(checkpoint, "verify", verified)
        crash.put(tmp_path, 5, 1, keep=1)
        raise Damaged("read while it was replaced")

    monkeypatch.setattr(Path, "stat", numbered)
    monkeypatch.setattr(checkpoint, "verify", overtaken)
    assert find_newest(tmp_path) == tmp_path / "step-000000005"


# Damage (R6)


def damaged_and_passed_over(run, name):
    """The newest of `run` (20) is called damaged because of the file `name` and set aside; 10 is used."""
    with pytest.raises(Damaged, match=name.replace(".", r"\.")):
        verify(run / "step-000000020")
    with pytest.warns(Notice, match="damaged-step-000000020-1") as told:
        assert crash.label(find_newest(run)) == (10, 0)
    assert len(told) == 1
    assert name in str(told[0].message)
    assert names(run) == ["damaged-step-000000020-1", "step-000000010"]


@pytest.fixture
def fresh(tmp_path):
    """A function that makes a new copy of a run with checkpoints 10 and 20: (run, path of 20, its files)."""
    master, count = tmp_path / "master", iter(range(1000))
    crash.put(master, 10)
    crash.put(master, 20)
    files = sorted(path for path in (master / "step-000000020").rglob("*") if path.is_file())
    parts = [path.relative_to(master / "step-000000020").as_posix() for path in files]

    def make():
        run = shutil.copytree(master, tmp_path / f"run-{next(count)}")
        return run, run / "step-000000020", parts

    return make


def test_a_flipped_bit_anywhere_is_found(fresh):
    draw = random.Random(1)
    for k in range(50):
        run, path, parts = fresh()
        name = parts[k % len(parts)]
        data = bytearray((path / name).read_bytes())
        bit = draw.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        (path / name).write_bytes(data)
        damaged_and_passed_over(run, name)


def test_a_truncated_file_is_found(fresh):
    draw = random.Random(2)
    for k in range(50):
        run, path, parts = fresh()
        name = parts[k % len(parts)]
        size = (path / name).stat().st_size
        os.truncate(path / name, 0 if k < len(parts) else draw.randrange(size))
        damaged_and_passed_over(run, name)


def test_a_missing_file_is_found(fresh):
    for name in fresh()[2]:
        run, path, _ = fresh()
        (path / name).unlink()
        damaged_and_passed_over(run, name)


@pytest.mark.parametrize("name", ["more.safetensors", "ema/wide.safetensors", "evil.py", "inner/x", "empty/"])
def test_an_extra_file_is_found(name, fresh):
    run, path, _ = fresh()
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).mkdir() if name.endswith("/") else (path / name).touch()
    damaged_and_passed_over(run, name.split("/")[0])


def test_files_swapped_with_those_of_another_checkpoint_are_found(fresh):
    for name in fresh()[2]:
        run, path, _ = fresh()
        shutil.copy(run / "step-000000010" / name, path / name)
        with pytest.raises(Damaged):
            verify(path)
        with pytest.warns(Notice):
            assert crash.label(find_newest(run)) == (10, 0)


def test_two_files_swapped_in_one_checkpoint_are_found(fresh):
    run, path, _ = fresh()
    os.rename(path / "model.safetensors", path / "x")
    os.rename(path / "ema" / "default.safetensors", path / "model.safetensors")
    os.rename(path / "x", path / "ema" / "default.safetensors")
    damaged_and_passed_over(run, "model.safetensors")


def test_a_checkpoint_named_after_another_step_is_found(fresh):
    run, path, _ = fresh()
    shutil.rmtree(path)
    shutil.copytree(run / "step-000000010", path)
    damaged_and_passed_over(run, "step 10")


def test_the_message_names_the_checkpoint_the_file_and_the_damage(fresh):
    def flip(file):
        file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])

    for damage, words in (
        (flip, "recipe.json: its bytes have changed"),
        (lambda file: os.truncate(file, 3), "recipe.json: its size has changed to 3 bytes"),
        (Path.unlink, "recipe.json is missing"),
    ):
        _, path, _ = fresh()
        damage(path / "recipe.json")
        with pytest.raises(Damaged, match=f"^{re.escape(f'{path} is damaged: {words}')}$"):
            verify(path)


def test_hashed_files_of_a_wrong_format_or_with_impossible_names_are_damage(tmp_path):
    contents = {"state.json": b"[1", "sums.json": b'{"loss": NaN}', "model.safetensors": b"x"}
    path = crash.forged(tmp_path / "a", contents)
    start = re.escape(f"{path} is damaged: ")
    for name in ("state", "sums"):
        with pytest.raises(Damaged, match=f"^{start}{name}.json is not JSON"):
            read_document(path, name)
    with pytest.raises(Damaged, match=f"^{start}model.safetensors is not a safetensors file"):
        read_tensors(path, "model")
    for k, name in enumerate((manifest.MANIFEST, manifest.MANIFEST.lower(), "../state.json")):
        path = crash.forged(tmp_path / str(k), {}, files={name: {}})
        with pytest.raises(Damaged, match=f"lists the invalid file name '{name}'"):
            verify(path)


def test_a_manifest_without_its_seal_is_damage(tmp_path):
    path = crash.put(tmp_path, 1)
    fields = json.loads((path / manifest.MANIFEST).read_text())
    del fields["sha256"]
    (path / manifest.MANIFEST).write_text(json.dumps(fields, indent=1) + "\n")
    with pytest.raises(Damaged, match=r"MANIFEST\.json has changed since it was written"):
        verify(path)


def test_reading_finds_damage_by_itself(fresh):
    _, path, _ = fresh()
    for name, read in (("model.safetensors", read_tensors), ("recipe.json", read_document)):
        damage_file(path / name, flip_bit)
        with pytest.raises(Damaged, match=name):
            read(path, name.split(".")[0])


def test_damage_is_a_warning_by_default_and_none_is_returned_if_all_are_damaged(tmp_path):
    (crash.put(tmp_path, 1) / "state.json").unlink()
    with pytest.warns(UserWarning, match=r"state\.json is missing; it is skipped, and was renamed"):
        assert find_newest(tmp_path) is None
    crash.put(tmp_path, 1)
    (tmp_path / "step-000000001" / "state.json").unlink()
    with pytest.warns(Notice):
        assert find_newest(tmp_path) is None
    assert names(tmp_path) == ["damaged-step-000000001-1", "damaged-step-000000001-2"]


def test_a_damaged_checkpoint_that_cannot_be_renamed_is_still_skipped(fresh, monkeypatch):
    run, path, _ = fresh()
    (path / "state.json").unlink()

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.warns(Notice, match=r"could not be renamed \(Permission denied\)"):
        assert crash.label(find_newest(run)) == (10, 0)


def test_a_bad_sector_is_damage_and_a_lack_of_permission_is_not(fresh, monkeypatch):
    run, path, _ = fresh()
    read = Path.read_bytes

    def failing(code):
        def read_bytes(file):
            if file == path / "model.safetensors":
                raise OSError(code, os.strerror(code))
            return read(file)

        return read_bytes

    monkeypatch.setattr(Path, "read_bytes", failing(errno.EACCES))
    with pytest.raises(PermissionError):
        find_newest(run)
    monkeypatch.setattr(Path, "read_bytes", failing(errno.EIO))
    damaged_and_passed_over(run, "model.safetensors")


def test_a_damaged_best_checkpoint_is_skipped_too(tmp_path):
    for step in (10, 20, 30):
        crash.put(tmp_path, step, keep=9, best=step < 30)
    (tmp_path / "step-000000020" / "model.safetensors").write_bytes(b"")
    with pytest.warns(Notice):
        assert crash.label(find_best(tmp_path)) == (10, 0)
    assert crash.label(find_newest(tmp_path)) == (30, 0)


# Schemas


def test_a_checkpoint_of_a_newer_ddim_is_refused_and_not_changed(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "SCHEMA", 2)
        path = crash.put(tmp_path, 1)
    for open_ in (find_newest, find_best, lambda _: verify(path), lambda _: read_document(path, "state")):
        with pytest.raises(UserError, match=r"newer ddim .*schema 2.*upgrade ddim") as caught:
            open_(tmp_path)
        assert not isinstance(caught.value, Damaged)
    assert names(tmp_path) == ["step-000000001"]


STATE = RunState(3, Pixels.fixed(0.5, 0.5, 3), 3, ("a", "b"), Runtime()).to_json()


@pytest.mark.parametrize("name", sorted(STATE))
def test_a_sealed_state_without_a_field_or_with_another_type_is_named_or_has_the_default(name, tmp_path):
    """The manifest agrees with the file: a program wrote it, not an accident."""
    assert load_state(crash.forged(tmp_path / "whole", {"state.json": manifest.render_json(STATE)})).step == 3
    missing = {key: value for key, value in STATE.items() if key != name}
    for k, document in enumerate([missing, *({**STATE, name: value} for value in ("x", [], {}, -1.5))]):
        path = crash.forged(tmp_path / str(k), {"state.json": manifest.render_json(document)})
        try:
            state = load_state(path)
        except Damaged as damage:
            sentence = str(damage)
            assert sentence.startswith(f"{path}/state.json is not the state of a run: ")
            continue
        assert isinstance(state.step, int)
        assert isinstance(state.channels, int)
