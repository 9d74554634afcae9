"""Atomic files, and files that one process creates."""

import json
import math
import os

import pytest

from ddim.files import atomic_file, write_json, write_once
from race import race


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
