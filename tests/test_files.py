"""Files that are whole or absent, or that one process only can make."""

import threading

import pytest

from ddim.files import create, whole


def test_of_two_that_write_one_file_at_once_neither_writes_into_the_other(tmp_path):
    """Here with one process id: containers that share a drive share these too."""
    path = tmp_path / "page"
    with whole(path) as last:
        last.write(b"the last")
        with whole(path) as first:
            first.write(b"the first")
        assert path.read_bytes() == b"the first"
    assert path.read_bytes() == b"the last"
    assert [file.name for file in tmp_path.iterdir()] == ["page"]


def test_a_file_is_created_once_and_whole(tmp_path):
    path = tmp_path / "page"
    create(path, b"first")
    with pytest.raises(FileExistsError):
        create(path, b"second")
    assert path.read_bytes() == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["page"]


def test_of_many_that_create_the_same_file_one_succeeds(tmp_path):
    barrier, won = threading.Barrier(12), []

    def race(k):
        barrier.wait()
        try:
            create(tmp_path / "page", str(k).encode())
        except FileExistsError:
            return
        won.append(k)

    threads = [threading.Thread(target=race, args=(k,)) for k in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (tmp_path / "page").read_text() == str(won[0])


def test_a_lost_answer_of_a_file_server_is_not_taken_for_another_worker(tmp_path, monkeypatch):
    import os

    link = os.link

    def answers_late(source, target):
        link(source, target)
        raise FileExistsError(17, "the link that was made when it was asked for the first time")

    monkeypatch.setattr(os, "link", answers_late)
    create(tmp_path / "page", b"mine")
    assert (tmp_path / "page").read_bytes() == b"mine"
