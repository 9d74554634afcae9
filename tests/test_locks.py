"""The lock of a run folder."""

import errno
import os
import subprocess
import sys

import pytest

from ddim.errors import FolderLocked
from ddim.files import temporary_folder, write_atomic
from ddim.files.locks import is_locked, lock_folder, remove_leftovers, try_lock
from windows import pretend_windows

HOLD = """
import sys, pathlib
from ddim.files.locks import lock_folder
with lock_folder(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_a_lock_excludes_other_processes_until_its_process_ends(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(FolderLocked, match="another process is writing into"), lock_folder(tmp_path):
            pass
        other.kill()
    with lock_folder(tmp_path):
        pass


def test_a_lock_ends_with_its_block_even_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), lock_folder(tmp_path):
        1 / 0  # noqa: B018
    with lock_folder(tmp_path), pytest.raises(FolderLocked), lock_folder(tmp_path):
        pass


def test_a_pipe_in_place_of_a_lock_does_not_block(tmp_path):
    """Opening a named pipe waits for a writer, here for ever."""
    os.mkfifo(tmp_path / ".lock")
    assert not is_locked(tmp_path)
    with lock_folder(tmp_path):
        assert is_locked(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK])
def test_a_drive_without_locks_holds_nothing(code, tmp_path, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock_folder(tmp_path), lock_folder(tmp_path):
        pass


def test_a_system_without_locks_holds_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with lock_folder(tmp_path), lock_folder(tmp_path):
        pass


# Windows


def test_a_folder_is_locked_once_on_windows(tmp_path, monkeypatch):
    pretend_windows(monkeypatch)
    assert not is_locked(tmp_path)
    with lock_folder(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(FolderLocked), lock_folder(tmp_path):
            pass
        assert (tmp_path / ".lock").read_bytes() == b""
    assert not is_locked(tmp_path)
    with lock_folder(tmp_path):
        pass


def test_readers_of_a_lock_do_not_disturb_each_other_on_windows(tmp_path, monkeypatch):
    pretend_windows(monkeypatch)
    (tmp_path / ".lock").touch()
    with (tmp_path / ".lock").open() as first, (tmp_path / ".lock").open() as second:
        assert try_lock(first.fileno(), shared=True)
        assert try_lock(second.fileno(), shared=True)
        with pytest.raises(FolderLocked), lock_folder(tmp_path):
            pass


def test_leftovers_of_dead_processes_are_removed_on_windows(tmp_path, monkeypatch):
    pretend_windows(monkeypatch)
    (tmp_path / f".tmp-{0:032x}-page").write_bytes(b"half")
    (tmp_path / f".tmp-{1:032x}-pages" / "pages").mkdir(parents=True)
    (tmp_path / f".tmp-{1:032x}-pages" / "pages" / "index.json").write_bytes(b"half")
    with temporary_folder(tmp_path / "mine") as mine:
        write_atomic(mine / "page", b"whole")
        remove_leftovers(tmp_path)
        assert [path.name for path in mine.iterdir()] == ["page"]
        assert list(tmp_path.iterdir()) == [mine.parent]
    assert not list(tmp_path.iterdir())
