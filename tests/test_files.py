"""Atomic files and folders, locks, and sealed documents."""

import json
import math
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from ddim.errors import Locked, UserError
from ddim.files import (
    SEAL,
    cache_folder,
    is_locked,
    lock_folder,
    publish_folder,
    read_json,
    read_sealed,
    remove_leftovers,
    temporary_folder,
    write_atomic,
    write_json,
    write_sealed,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(call, tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_json(path, {"seed": 1})

    def refuse(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(OSError, match="No space") as refused:
            write_json(path, {"seed": 2})
    assert refused.value.filename == str(path)
    assert json.loads(path.read_text()) == {"seed": 1}
    assert names(tmp_path) == ["run.json"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "images"
    with suppress(ZeroDivisionError), temporary_folder(path) as folder:
        (folder / "page").write_bytes(b"half")
        1 / 0  # noqa: B018
    assert names(path.parent) == []
    with temporary_folder(path) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "page").write_bytes(b"whole")
        assert not path.exists()
        publish_folder(folder, path)
    assert (path / "inner" / "page").read_bytes() == b"whole"
    with temporary_folder(path) as folder, pytest.raises(OSError, match="not empty"):
        publish_folder(folder, path)
    assert names(path.parent) == ["images"]


def test_what_a_killed_process_left_is_removed_when_it_is_old(tmp_path):
    pages, page = (f".tmp-{k:032x}-{name}" for k, name in enumerate(("pages", "page")))
    (tmp_path / pages).mkdir()
    (tmp_path / page).write_bytes(b"half")
    (tmp_path / ".tmp-thesis").mkdir()  # of the user
    write_atomic(tmp_path / "page", b"")
    remove_leftovers(tmp_path, older_than=3600)
    assert names(tmp_path) == [pages, page, ".tmp-thesis", "page"]
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    with temporary_folder(tmp_path / "images"):
        pass
    assert names(tmp_path) == [".tmp-thesis", "page"]


def test_the_cache_folder_is_that_of_the_variable_with_its_tilde_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DDIM_CACHE", "~/cache")
    assert cache_folder() == tmp_path / "cache"
    assert cache_folder("~/other") == tmp_path / "other"


# Locks

HOLD = """
import sys, pathlib
from ddim.files import lock_folder
with lock_folder(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_a_lock_excludes_other_processes_until_its_process_ends(tmp_path):
    assert not is_locked(tmp_path)
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], **streams) as other:
        assert other.stdout.readline() == b"held\n"
        assert is_locked(tmp_path)
        with pytest.raises(Locked, match="another process"), lock_folder(tmp_path):
            pass
        other.kill()
        other.wait()
    assert not is_locked(tmp_path)
    with suppress(ZeroDivisionError), lock_folder(tmp_path):
        1 / 0  # noqa: B018
    with lock_folder(tmp_path), pytest.raises(Locked), lock_folder(tmp_path):
        pass


# Documents

DOCUMENT = {
    "seeds": [0, 1, 20],
    "none": None,
    "yes": True,
    "metrics": {"kid": {"value": 0.1 + 0.2, "low": -1e-300}},
}
DOCUMENT |= {"versions": {"python": "3.11", "name": "Ünï \u202e"}}


def test_a_sealed_document_is_returned_without_its_seal(tmp_path):
    path = tmp_path / "record.json"
    write_sealed(path, DOCUMENT | {"pair": (1, 2)})
    assert read_sealed(path) == DOCUMENT | {"pair": [1, 2]}
    # A program that writes the same content in another layout does not break the seal.
    path.write_text(json.dumps(dict(sorted(read_json(path).items())), ensure_ascii=False))
    assert read_sealed(path) == DOCUMENT | {"pair": [1, 2]}


def test_a_changed_byte_of_a_sealed_document_is_refused_or_changes_nothing(tmp_path):
    """Each byte in turn, with another bit each time; a line break or the key of the seal holds no content."""
    path = tmp_path / "record.json"
    write_sealed(path, DOCUMENT)
    data, refused = path.read_bytes(), 0
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        content = None
        with suppress(UserError):
            content = read_sealed(path)
        refused += content is None
        assert content is None or {key: content[key] for key in DOCUMENT} == DOCUMENT
    assert refused > 0.8 * len(data)
    for length in range(len(data) - 2):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="damaged"):
            read_sealed(path)


def test_a_changed_value_breaks_the_seal_and_removing_the_seal_mends_it(tmp_path):
    path = tmp_path / "record.json"
    write_sealed(path, DOCUMENT)
    sealed = read_json(path)
    for change in ({"seeds": [0, 1]}, {"yes": 1}, {"none": 0}, {"more": 1}, {"seeds": None}):
        path.write_text(json.dumps(sealed | change))
        with pytest.raises(UserError, match=SEAL):
            read_sealed(path)
        path.write_text(json.dumps(DOCUMENT | change))
        assert read_sealed(path) == DOCUMENT | change


@pytest.mark.parametrize("text", ["[]", "3", '"seal"', "null", "[" * 100_000, "\xff", ""])
def test_files_that_are_not_documents_are_named(text, tmp_path):
    path = tmp_path / "record.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"record\.json is damaged"):
        read_sealed(path)


@pytest.mark.parametrize("wrong, error", [(math.nan, ValueError), (Path(), TypeError)])
def test_a_value_that_json_cannot_express_is_refused_before_the_file_changes(wrong, error, tmp_path):
    for write in (write_json, write_sealed):
        write(tmp_path / "record.json", DOCUMENT)
        with pytest.raises(error):
            write(tmp_path / "record.json", {"kid": wrong})
        assert read_sealed(tmp_path / "record.json") == DOCUMENT
