"""Kill a process before each change that it makes to a folder, and replay power cuts.

`python tests/support/crash.py FOLDER` fails if a reader then finds something else than the old or the new.
This is a script because it forks, and because an audit hook cannot be removed: neither belongs in the
process of the tests.
"""

import itertools
import os
import shutil
import signal
import stat
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from ddim.errors import Notice
from ddim.files import atomic_file, publish_folder, temporary_folder
from ddim.runs import checkpoint
from programmes import run_as_command

CHANGES = {"open": 0, "os.rename": 0, "os.remove": 0, "os.rmdir": 0, "os.mkdir": 0, "os.link": 1}
"""The audit events of changes of a folder, with the index of the argument that is the changed path."""

MAY_FAIL = ((os, "fsync"), (os, "mkdir"), (os, "rename"), (os, "replace"), (Path, "open"))
"""The calls that `failing` counts."""


@contextmanager
def failing(n, code):
    """Let the n-th call of `MAY_FAIL` fail with the error `code`; yield a list that then gets its name."""
    countdown, failed = itertools.count(n - 1, -1), []

    def wrap(name, call):
        def hooked(*args, **keywords):
            reads = name == "open" and not set("wx+") & set(str([*args[1:2], keywords.get("mode", "r")]))
            if not reads and next(countdown) == 0:
                failed.append(name)
                raise OSError(code, os.strerror(code))
            return call(*args, **keywords)

        return hooked

    with pytest.MonkeyPatch.context() as replaced:
        for owner, name in MAY_FAIL:
            replaced.setattr(owner, name, wrap(name, getattr(owner, name)))
        yield failed


class Watch:
    """Calls a function before each change of a folder, and after each flush of a file."""

    def __init__(self):
        self.act = None
        sys.addaudithook(self._hear)

    @contextmanager
    def changes(self, act, after_flush=lambda file: None):
        """Call `act()` before each change of a file or folder in this block, and before each flush."""

        def flush(file):
            act()
            after_flush(file)

        # A kill loses nothing that was written, and power cuts are played in memory: do not wait for disks.
        with patch.object(os, "fsync", flush):
            self.act = act
            try:
                yield
            finally:
                self.act = None

    def _hear(self, event, args):
        if self.act and event in CHANGES and (event != "open" or args[2] & (os.O_WRONLY | os.O_RDWR)):
            act, self.act = self.act, None
            act()
            self.act = act


# Checkpoints, files and folders whose content is known


def content(step, version=0):
    """The (tensors, documents) of a small checkpoint; another step or version differs in every part."""
    stream = torch.Generator().manual_seed(1000 * version + step)

    def draw(*shape):
        return torch.randn(*shape, generator=stream)

    tensors = {
        "model": {"weight": draw(4, 3), "steps": torch.tensor(step)},
        "ema/default": {"weight": draw(4, 3)},
        "optimizer": {"0.exp_avg": draw(4, 3).bfloat16()},
    }
    documents = {
        "state": {"step": step, "version": version, "loss": 0.1 + step},
        "recipe": {"name": f"{step}-{version}"},
    }
    return tensors, documents


def put(folder, step, version=0, **options):
    """Save content(step, version)."""
    return checkpoint.save(folder, step, *content(step, version), **options)


def label(path):
    """Return (step, version) of a checkpoint, and check that all of it equals content(step, version).

    Return None if `path` is None.
    """
    if path is None:
        return None
    state = checkpoint.read_document(path, "state")
    found = state["step"], state["version"]
    tensors, documents = content(*found)
    assert state == documents["state"]
    assert checkpoint.read_document(path, "recipe") == documents["recipe"]
    for name, group in tensors.items():
        read = checkpoint.read_tensors(path, name)
        assert read.keys() == group.keys()
        for key, tensor in group.items():
            assert read[key].dtype == tensor.dtype
            assert torch.equal(read[key], tensor)
    return found


def write_file(run, text):
    """Write the file `page`."""
    with atomic_file(run / "page") as file:
        file.write(text * 1000)


def write_folder(run):
    """Write the folder `pages`, unless it is there."""
    with temporary_folder(run / "pages") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "page").write_bytes(b"new")
        if not (run / "pages").exists():
            publish_folder(folder, run / "pages")


def read_folder(run):
    """Return what `write_folder` wrote, or None."""
    return (run / "pages" / "inner" / "page").read_text() if (run / "pages").exists() else None


def newest(run):
    """Return the labels of the newest checkpoint and of the best one."""
    return [label(checkpoint.read_newest(run / PLACE, checkpoint.verify, best)) for best in (False, True)]


def begin(run):
    """Save the checkpoints 10, the best, and 20."""
    put(run / PLACE, 10, best=True)
    put(run / PLACE, 20)


PLACE, OLD, NEW = "checkpoints", [(20, 0), (10, 0)], [(20, 1), (10, 0)]
WRITERS = {
    # What is there before, what is written, what is read, and what may be read at any instant of it.
    "first": (lambda run: None, lambda run: put(run / PLACE, 10), newest, [[None, None], [(10, 0), None]]),
    "next": (begin, lambda run: put(run / PLACE, 30, keep=1, best=True), newest, [OLD, [(30, 0), (30, 0)]]),
    # The old checkpoint of a step is removed before the new one gets its name.
    "again": (begin, lambda run: put(run / PLACE, 20, 1, keep=1), newest, [OLD, [(10, 0), (10, 0)], NEW]),
    "file": (
        lambda run: write_file(run, b"old"),
        lambda run: write_file(run, b"new"),
        lambda run: (run / "page").read_text()[-3:] * ((run / "page").stat().st_size == 3000),
        ["old", "new"],
    ),
    "folder": (lambda run: None, write_folder, read_folder, [None, "new"]),
}


# Kills


def killed_before(n, work):
    """Run `work` in a forked process that is killed before its n-th change; False if it makes fewer."""
    countdown = itertools.count(n - 1, -1)

    def stop():
        if next(countdown) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        try:
            with WATCH.changes(stop):
                work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), "the forked process failed"
    return status != 0


def kill(folder, before, write, read, possible):
    """Kill a writer before each of its changes; return the index in `possible` of what is read each time."""
    found, start = [], folder / "start"
    start.mkdir()
    before(start)
    for n in itertools.count(1):
        run = folder / f"killed-{n}"
        shutil.copytree(start, run)
        if not killed_before(n, lambda run=run: write(run)):
            break
        found.append(possible.index(read(run)))
        # The next call works and finishes what was begun.
        write(run)
        assert read(run) == possible[-1], n
        if read is newest:
            assert {path.name[:5] for path in (run / PLACE).iterdir()} == {"step-"}, n
    return found


# Power cuts

LEFT = (
    lambda now, synced: now,
    lambda now, synced: synced,
    lambda now, synced: synced + bytes(max(0, len(now) - len(synced))),
    lambda now, synced: synced + now[len(synced) : (len(synced) + len(now)) // 2],
)
"""Functions (now, synced) that return what may be left of a file; `synced` is its flushed content."""

NAMES = (
    *(lambda depth, place, k=k: depth <= k for k in range(-1, 4)),
    *(lambda depth, place, k=k: depth > k for k in range(4)),
    *(lambda depth, place, k=k, n=n: place % n == k for n in (2, 3, 4) for k in range(n)),
)
"""Functions (depth, place) that choose what is left of a name in a folder.

`depth` is that of the folder, and `place` that of the name in it. True chooses the present entry of the name,
and False the flushed one.
"""


class Disk:
    """Follows the changes of a folder; all that is in it at the start counts as flushed.

    Call `fsync(file)` at each flush of an open file or folder, and `states()` wherever the power may be cut.
    """

    def __init__(self, root):
        # The descriptor and the flushed content of each file and folder, keyed by device and inode number.
        # The descriptors stay open, so that no other file gets the same number.
        self.files, self.synced = {}, {}
        self.root = self._find(root)
        for key in self._walk(self.root):
            self.synced[key] = self._now(key)

    def fsync(self, file):
        """Take the flush of an open file into account."""
        key, _ = read_key(file), [*self._walk(self.root)]
        if key in self.files:  # else it is elsewhere
            self.synced[key] = self._now(key)

    def states(self):
        """Yield what a power cut may leave now, as {path: bytes, or None for a folder}."""
        list(self._walk(self.root))
        for data, names in itertools.product(LEFT, NAMES):
            yield dict(self._left(self.root, data, names))

    def _left(self, key, data, names, depth=0, place=""):  # noqa: PLR0913
        now, synced = self._now(key), self.synced[key]
        if isinstance(now, bytes):
            yield place, data(now, synced)
            return
        if place:
            yield place, None
        # File systems keep the order of renames and removals, but new names may come in any order.
        grown = synced.items() <= now.items()
        for k, name in enumerate(sorted(now.keys() | synced)):
            inner = (now if names(depth, k if grown else 0) else synced).get(name)
            if inner:
                yield from self._left(inner, data, names, depth + 1, f"{place}/{name}" if place else name)

    def _walk(self, key):
        """Yield the keys of all entries, and open what is new."""
        yield key
        if isinstance(self.synced[key], dict):
            for inner in self._now(key).values():
                yield from self._walk(inner)

    def _now(self, key):
        """Return the bytes of a file, or the names of a folder with the keys of their entries."""
        file = self.files[key]
        if isinstance(self.synced[key], dict):
            return {name: self._find(name, file) for name in sorted(os.listdir(file))}
        return os.pread(file, os.fstat(file).st_size, 0)

    def _find(self, name, folder=None):
        """Return the key of the entry of a name; it is added if it is new."""
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
        key = read_key(file)
        if self.files.setdefault(key, file) == file:
            self.synced[key] = {} if stat.S_ISDIR(os.fstat(file).st_mode) else b""
        else:
            os.close(file)
        return key


def read_key(file):
    """The device and inode number of an open file."""
    status = os.fstat(file)
    return status.st_dev, status.st_ino


def replay(folder, before, write, read, possible):
    """Cut the power before each change of a writer; return the number of different states that were read."""
    run = folder / "run"
    run.mkdir()
    before(run)
    disk, states = Disk(run), {}

    def note():
        states.update((repr(sorted(state.items())), state) for state in disk.states())

    with WATCH.changes(note, disk.fsync):
        write(run)
    note()
    for k, state in enumerate(states.values()):
        assert recovered(folder / f"cut-{k}", state, read) in possible, k
    # Once the writer has returned, nothing can take away what it wrote.
    for k, state in enumerate([*disk.states()]):
        assert recovered(folder / f"after-{k}", state, read) == possible[-1], k
    return len(states)


def recovered(place, state, read):
    """Write `state` as a folder at `place`; return what is read from it."""
    place.mkdir()
    for name, data in state.items():
        if data is None:
            (place / name).mkdir()
        else:
            (place / name).write_bytes(data)
    with warnings.catch_warnings(action="ignore", category=Notice):
        return read(place)


def crash_writers(folder):
    """Kill each writer and cut its power; return {writer: [reads after kills, number of states]}."""
    os.chdir(folder)
    report = {"faults": []}
    for name, writer in WRITERS.items():
        (folder / name).mkdir()
        report[name] = kill(folder / name, *writer), replay(folder / name, *writer)
    return report


if __name__ == "__main__":
    warnings.simplefilter("error")
    WATCH = Watch()
    run_as_command(crash_writers)
