"""Atomic files, and files that one process creates."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddim.errors import Notice
from ddim.files import (
    atomic_file,
    cache_folder,
    cache_folders,
    make_folder,
    publish_folder,
    remove_folder,
    temporary_folder,
    write_atomic,
    write_once,
)
from ddim.files.documents import write_json
from ddim.files.locks import LOCK, remove_leftovers
from race import race
from windows import pretend_windows


def test_two_writers_of_one_file_do_not_mix_their_bytes(tmp_path):
    """Even with one process id: containers that share a drive may share process ids."""
    path = tmp_path / "page"
    with atomic_file(path) as last:
        last.write(b"the last")
        with atomic_file(path) as first:
            first.write(b"the first")
        assert path.read_bytes() == b"the first"
    assert path.read_bytes() == b"the last"
    assert [file.name for file in tmp_path.iterdir()] == ["page"]


def test_write_once_refuses_an_existing_file(tmp_path):
    path = tmp_path / "page"
    write_once(path, b"first")
    with pytest.raises(FileExistsError):
        write_once(path, b"second")
    assert path.read_bytes() == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["page"]


def test_one_of_many_writers_creates_the_file(tmp_path):
    won = []

    def write(k):
        try:
            write_once(tmp_path / "page", str(k).encode())
        except FileExistsError:
            return
        won.append(k)

    race(write, 12)
    assert len(won) == 1
    assert (tmp_path / "page").read_text() == str(won[0])


def test_a_link_whose_answer_was_lost_counts_as_our_own(tmp_path, monkeypatch):
    link = os.link

    def answers_late(source, target):
        link(source, target)
        raise FileExistsError(17, "the link exists since the first request")

    monkeypatch.setattr(os, "link", answers_late)
    write_once(tmp_path / "page", b"mine")
    assert (tmp_path / "page").read_bytes() == b"mine"


# Leftovers

HOLD = """
import sys
from pathlib import Path
from ddim.files import atomic_file, temporary_folder
from ddim.files.documents import write_json
folder = Path(sys.argv[1])
with atomic_file(folder / "page") as file, temporary_folder(folder / "images") as images:
    file.write(b"half")
    write_json(images / "index.json", [])
    print("held", flush=True)
    input()
"""


def test_leftovers_are_removed_when_their_process_is_dead_and_not_because_they_are_old(tmp_path):
    write_atomic(tmp_path / "before", b"")
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], **streams) as writer:
        assert writer.stdout.readline() == b"held\n"
        left = sorted(tmp_path.glob(".tmp-*"))
        assert len(left) == 2
        for path in left:
            os.utime(path, (0, 0))
        remove_leftovers(tmp_path)
        assert sorted(tmp_path.glob(".tmp-*")) == left
        writer.kill()
        writer.wait()
        mine = tmp_path / ".tmp-thesis"
        mine.mkdir()
        remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == [mine, tmp_path / "before"]


def test_the_first_write_into_a_folder_removes_the_leftovers_in_it(tmp_path):
    for write in (lambda folder: write_json(folder / "page", []), lambda folder: fill(folder / "pages")):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        # One process died before it locked its folder, and one while it removed another.
        for k, name in enumerate((LOCK, "model.safetensors")):
            (folder / f".tmp-{k:032x}-pages").mkdir(parents=True)
            (folder / f".tmp-{k:032x}-pages" / name).write_bytes(b"")
        (folder / f".tmp-{9:032x}-page").write_bytes(b"half")
        write(folder)
        assert [path.name[0] for path in folder.iterdir()] == ["p"]


def fill(folder):
    with temporary_folder(folder) as temporary:
        temporary.rename(folder)


def test_writers_survive_others_that_remove_leftovers_all_the_time(tmp_path):
    (tmp_path / "victim").mkdir()

    def work(k):
        for turn in range(20):
            if k % 2:
                remove_leftovers(tmp_path)
            else:
                write_atomic(tmp_path / f"page-{k}", str(turn).encode())
                fill(tmp_path / f"folder-{k}-{turn}")
                remove_folder(tmp_path / f"folder-{k}-{turn}")

    race(work, 8)
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["victim", *[f"page-{k}" for k in range(0, 8, 2)]]
    )
    assert all((tmp_path / f"page-{k}").read_bytes() == b"19" for k in range(0, 8, 2))


# Folders


def test_a_finished_folder_replaces_only_an_empty_one_on_windows_too(tmp_path, monkeypatch):
    pretend_windows(monkeypatch)
    path = tmp_path / "images"
    path.mkdir()
    with temporary_folder(path) as folder:
        write_atomic(folder / "page", b"first")
        publish_folder(folder, path)
    with temporary_folder(path) as folder, pytest.raises(OSError, match="not empty"):
        publish_folder(folder, path)
    assert (path / "page").read_bytes() == b"first"


def test_a_folder_on_a_drive_that_does_not_exist_cannot_be_made(monkeypatch):
    """A drive of Windows is its own parent, as the root is here."""
    monkeypatch.setattr(Path, "is_dir", lambda path: False)
    with pytest.raises(OSError, match="exists: '/'"):
        make_folder(Path("/runs/a"))


# Documents


def test_a_value_that_json_cannot_express_leaves_the_old_document(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"seed": 1, "loss": 0.1})
    for wrong, error in (({"loss": math.nan}, ValueError), ({"path": path}, TypeError)):
        with pytest.raises(error):
            write_json(path, wrong)
        assert json.loads(path.read_text()) == {"seed": 1, "loss": 0.1}
    assert [inner.name for inner in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_document_and_nothing_else(call, tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_json(path, {"seed": 1})

    def refuse(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(OSError, match="No space"):
            write_json(path, {"seed": 2})
    assert json.loads(path.read_text()) == {"seed": 1}
    assert [inner.name for inner in tmp_path.iterdir()] == ["run.json"]


# The cache folder


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A cache folder of another user, in DDIM_CACHE; returns it and the user's own."""
    shared, own = tmp_path / "shared", tmp_path / "own"
    (shared / "features").mkdir(parents=True)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: own)
    monkeypatch.setenv("DDIM_CACHE", str(shared))
    monkeypatch.setattr(os, "geteuid", lambda: shared.stat().st_uid + 1)
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(shared / "features")))
    return shared, own


def test_a_cache_of_another_user_is_read_and_ones_own_is_written(foreign):
    shared, own = foreign
    with pytest.warns(Notice) as said:
        assert cache_folders() == [shared, own]
    assert cache_folder() == own
    sentence = f"the cache folder {shared} belongs to another user: it is only read, new files go to {own}"
    assert [str(one.message) for one in said] == [sentence]
    # The warning names the line of the caller, not one of the package.
    assert said[0].filename == __file__


def test_a_home_folder_in_the_variable_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DDIM_CACHE", "~/cache")
    assert cache_folder() == tmp_path / "cache"
