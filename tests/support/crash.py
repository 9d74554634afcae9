"""Kill a process after any system call, replay power cuts, and open hostile files.

`python tests/support/crash.py kills|averages|replay|hostile FOLDER` prints a report as JSON. This is a script
because it forks, and because an audit hook cannot be removed: neither belongs in the process of the tests.
"""

import hashlib
import io
import itertools
import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch

from ddim.errors import Notice, UserError
from ddim.runs import checkpoint
from ddim.runs.averages import StoredAverage, find_stored, list_stored, store_average
from ddim.runs.pipeline import load_state
from power_cuts import Disk, hash_state

MAY_FAIL = ("open", "write", "fsync", "mkdir", "rename")
CALLS = (*MAY_FAIL, "close", "replace", "unlink", "rmdir", "link", "symlink")


@contextmanager
def wrapped_calls(names, wrap):
    """Replace each of these system calls by `wrap(name, call)` inside the block."""
    originals = {name: getattr(os, name) for name in names}
    for name, call in originals.items():
        setattr(os, name, wrap(name, call))
    try:
        yield
    finally:
        for name, call in originals.items():
            setattr(os, name, call)


def watched(after):
    """Call `after(name, args, keywords, result)` after each system call of CALLS that succeeds."""

    def wrap(name, call):
        def hooked(*args, **keywords):
            result = call(*args, **keywords)
            after(name, args, keywords, result)
            return result

        return hooked

    return wrapped_calls(CALLS, wrap)


@contextmanager
def failing(n, code):
    """Let the n-th system call fail with the error `code`; yield a list that then gets the call's name."""
    countdown, failed = itertools.count(n - 1, -1), []

    def wrap(name, call):
        def hooked(*args, **keywords):
            if next(countdown) == 0:
                failed.append(name)
                raise OSError(code, os.strerror(code))
            return call(*args, **keywords)

        return hooked

    with wrapped_calls(MAY_FAIL, wrap):
        yield failed


def crashed(mode, folder):
    """Run this script in a mode and return its report; fail if one of its checks fails."""
    command = [sys.executable, __file__, mode, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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


# A save into run/checkpoints: what is there before, what is saved, and what may be the newest and the best
# at any instant of it.


def _none(run):
    pass


def _two(run):
    put(run / PLACE, 10, best=True)
    put(run / PLACE, 20)


PLACE = "checkpoints"
SAVES = {
    "first": (_none, lambda run: put(run / PLACE, 10), {None, (10, 0)}, {None}),
    "next": (
        _two,
        lambda run: put(run / PLACE, 30, keep=1, best=True),
        {(20, 0), (30, 0)},
        {(10, 0), (30, 0)},
    ),
    "again": (_two, lambda run: put(run / PLACE, 20, 1, keep=1), {(20, 0), (20, 1)}, {(10, 0)}),
}


def child(work):
    """Run `work` in a forked process; return the number of the signal that ended the process, 0 for none."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status <= 0, "the forked process failed"
    return -status


def killed_after(n, work):
    """Run `work` in a forked process, killed right after its n-th system call; False if it ended before."""
    countdown = itertools.count(n - 1, -1)

    def after(*_):
        if next(countdown) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def run():
        with watched(after):
            work()

    return child(run) == signal.SIGKILL


def kills(folder):
    """Kill each save after each of its system calls; return {save: the newest checkpoint after each kill}."""
    report = {}
    for name, (before, save, newest, best) in SAVES.items():
        start = folder / f"{name}-start"
        start.mkdir()
        before(start)
        outcomes = []
        for n in itertools.count(1):
            run = folder / f"{name}-{n}"
            shutil.copytree(start, run)
            if not killed_after(n, lambda run=run, save=save: save(run)):
                break
            found = label(checkpoint.find_newest(run / PLACE))
            assert found in newest, (name, n, found)
            assert label(checkpoint.find_best(run / PLACE)) in best, (name, n)
            outcomes.append(found)
            # The run goes on: the next save works, finishes what was begun, and leaves no rubbish.
            put(run / PLACE, 40, keep=9)
            assert label(checkpoint.find_newest(run / PLACE)) == (40, 0)
            left = {path.name for path in (run / PLACE).iterdir()}
            assert left <= {f"step-{step:09d}" for step in (10, 20, 30, 40)}, (name, n, left)
        report[name] = outcomes
    return report


def averages(folder):
    """Kill the replacement of a stored average after each of its system calls.

    Return the width of the average that was found after each kill.
    """
    start = folder / "start"
    keep(start, 1)
    outcomes = []
    for n in itertools.count(1):
        run = folder / f"averages-{n}"
        shutil.copytree(start, run)
        if not killed_after(n, lambda run=run: keep(run, 2)):
            break
        outcomes.append(kept(run))
        # The next one finishes what was begun.
        keep(run, 3)
        assert kept(run) == 3, n
        left = [path.name for path in (run / "averages").iterdir() if path.name[0] != "."]
        assert left == ["mine"], (n, left)
    return outcomes


def keep(run, width):
    """Store an average of this width."""
    store_average(run, "mine", {"weight": torch.full((4,), width)}, StoredAverage(width, 1.0, 0.0, 1, "sha"))


def kept(run):
    """Return the width of the only stored average, and check that its other parts fit this width."""
    (facts,) = list_stored(run).values()
    weight = checkpoint.read_tensors(find_stored(run)["mine"], "average")["weight"]
    assert weight.tolist() == [facts.width] * 4
    return facts.width


# Power cuts


def replay(folder):
    """Cut the power after each system call of each save; return {save: number of different states tried}."""
    report = {}
    for name, (before, save, newest, best) in SAVES.items():
        run = folder / f"{name}-run"
        run.mkdir()
        before(run)
        disk, states = Disk(run), {}

        def note(call, args, keywords, result, disk=disk, states=states):
            assert call != "open" or not args[1] & os.O_CREAT or args[1] & os.O_EXCL, "written over in place"
            if call == "fsync":
                disk.fsync(args[0])
            for state in disk.states():
                states[hash_state(state)] = state

        with watched(note):
            save(run)
        done = label(checkpoint.find_newest(run / PLACE))
        for k, state in enumerate(states.values()):
            assert recovered(folder / f"{name}-{k}", state) in newest, (name, k)
            with warnings.catch_warnings(action="ignore", category=Notice):
                found = checkpoint.find_best(folder / f"{name}-{k}" / PLACE)
            assert label(found) in best, (name, k)
        # Once save() has returned, nothing can take the new checkpoint away.
        for k, state in enumerate(disk.states()):
            assert recovered(folder / f"{name}-done-{k}", state) == done, (name, k)
        disk.close()
        report[name] = len(states)
    return report


def recovered(place, state):
    """Write `state` as a run folder at `place`; return the label of its newest checkpoint."""
    place.mkdir()
    for name, data in state.items():
        if data is None:
            (place / name).mkdir()
        else:
            (place / name).write_bytes(data)
    with warnings.catch_warnings(action="ignore", category=Notice):
        return label(checkpoint.find_newest(place / PLACE))


# Hostile files.


class Bomb:
    """Whoever unpickles this runs code."""

    def __reduce__(self):
        return os.system, ("touch PWNED",)


def packed(header, data=b"", length=None):
    """A safetensors file with any header, and any length before it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def forged(path, contents, **fields):
    """Write a checkpoint with any files and a manifest that fits them; `fields` replace its entries."""
    path.mkdir(parents=True)
    listed = {}
    for name, data in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
        listed[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    fields = {"schema": 1, "step": 1, "best": False, "files": listed} | fields
    bare = (json.dumps(fields, indent=1) + "\n").encode()
    sealed = fields | {"sha256": hashlib.sha256(bare).hexdigest()}
    (path / checkpoint.MANIFEST).write_text(json.dumps(sealed, indent=1) + "\n")
    return path


def _tensor_files():
    zipped, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"weight": Bomb()}, zipped)
    torch.save({"weight": Bomb()}, legacy, _use_new_zipfile_serialization=False)
    fine = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    return {
        "a pickle": pickle.dumps(Bomb()),
        "an old pickle": pickle.dumps(Bomb(), protocol=0),
        "a file of torch.save": zipped.getvalue(),
        "an old file of torch.save": legacy.getvalue(),
        "an empty file": b"",
        "a header of 2^64 - 1": packed({}, length=2**64 - 1),
        "a header of 2^63": packed({}, length=2**63),
        "a header of 1 GB": packed({}, length=10**9),
        "a header that is no JSON": packed(b"(lp0\n"),
        "a pickle as header": packed(pickle.dumps(Bomb())),
        "tensors past the end": packed({"w": fine | {"data_offsets": [0, 4 << 40], "shape": [1 << 40]}}),
        "tensors that overlap": packed({"w": fine, "v": fine}, bytes(4)),
        "tensors that go backwards": packed({"w": fine | {"data_offsets": [4, 0]}}, bytes(4)),
        "shapes that overflow": packed({"w": fine | {"shape": [2**33, 2**33]}}, bytes(4)),
        "a negative shape": packed({"w": fine | {"shape": [-1]}}, bytes(4)),
        "a type by class path": packed({"w": fine | {"dtype": "os.system"}}, bytes(4)),
        "a header nested too deep": packed(b'{"a":' * 100_000),
    }


def _documents():
    return {
        "YAML tags": b'!!python/object/apply:os.system ["touch PWNED"]\n',
        "a pickle": pickle.dumps(Bomb()),
        "NaN": b'{"loss": NaN}',
        "too deep": b"[" * 100_000,
        "a giant number": b"1" * 100_000,
        "not UTF-8": b'{"a": "\xff"}',
        "a table without the fields of a state": b"{}",
        "a field of another type": b'{"images": null, "pixels": 3, "sums": {}}',
        "a list": b"[1]",
        "a word": b'"state"',
    }


def _manifests(folder):
    """Yield (case, path) of checkpoints whose manifest, or a file that it names, is a trap."""
    inside = {"model.safetensors": packed({})}
    (folder / "secret.json").write_text("{}")
    entry = {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    secret = str(folder / "secret.json")
    for k, name in enumerate(("../secret.json", secret, "a/../../secret.json", "..\\secret.json", "a//b")):
        yield f"a manifest that names {name}", forged(folder / f"m{k}", {}, files={name: entry})
    for k, odd in enumerate(([], {"a": 1}, {"model.safetensors": []}, {checkpoint.MANIFEST: entry}, "x")):
        yield f"a manifest whose files are {odd}", forged(folder / f"odd{k}", inside, files=odd)
    yield "a manifest of a newer ddim", forged(folder / "newer", inside, schema=1000, soul="x")
    yield "a manifest with a field too many", forged(folder / "field", inside, _class_path="os.system")
    yield "a manifest without a step", forged(folder / "step", inside, step=None)
    texts = (b"", b"[]", b"1e999", b'"x"', b"[" * 100_000, b'{"sha256": 1e999}', b"\x00" * 64)
    for k, text in enumerate(texts):
        path = forged(folder / f"raw{k}", inside)
        (path / checkpoint.MANIFEST).write_bytes(text)
        yield f"a manifest that is {text[:20]!r}", path
    link = lambda file: file.symlink_to(folder / "secret.json")
    puts = {"link": link, "pipe": os.mkfifo, "folder": os.mkdir}
    for kind, put_kind in puts.items():
        path = forged(folder / kind, {"state.json": b"{}"})
        (path / "state.json").unlink()
        put_kind(path / "state.json")
        yield f"a {kind} in place of a file", path
    path = forged(folder / "outer", {"ema/default.safetensors": packed({})})
    shutil.move(path / "ema", folder / "elsewhere")
    (path / "ema").symlink_to(folder / "elsewhere")
    yield "a link in place of a folder", path
    path = forged(folder / "newline", inside)
    (path / "a\nb\udcff").write_bytes(b"")
    yield "a name with a newline and no UTF-8", path


def outcome(call):
    """What came of opening a hostile file: the sentence of its error, or what was read."""
    try:
        return {"read": repr(call())}
    except UserError as error:
        return {"error": str(error), "damaged": isinstance(error, checkpoint.Damaged)}


def hostile(folder):
    """Open hostile files while an audit hook listens, and return a report.

    The report has the forbidden events ("alarms"), a proof that the hook works ("alive"), new files ("new"),
    and {case: outcome} ("outcomes").
    """
    cases = {}
    for k, (name, data) in enumerate(_tensor_files().items()):
        path = forged(folder / f"t{k}", {"model.safetensors": data})
        cases[f"tensors: {name}"] = lambda path=path: checkpoint.read_tensors(path, "model")
    for k, (name, data) in enumerate(_documents().items()):
        path = forged(folder / f"d{k}", {"state.json": data})
        cases[f"document: {name}"] = lambda path=path: load_state(path)
    for name, path in _manifests(folder):
        cases[name] = lambda path=path: checkpoint.verify(path)
    classes = json.dumps({"_class_path": "os.system", "_target_": "os.system", "args": ["touch PWNED"]})
    path = forged(folder / "fine", {"state.json": classes.encode()})
    cases["fine: class paths in a document are words"] = lambda: checkpoint.read_document(path, "state")
    named = packed({"__metadata__": {"_class_path": "os.system"}})
    other = forged(folder / "fine2", {"model.safetensors": named})
    cases["fine: class paths in a header are words"] = lambda: checkpoint.read_tensors(other, "model")
    label(put(folder / "warm", 1))  # everything is imported before the hook listens
    alarms, listening = [], True

    def hear(event, args):
        if listening and (event in ALARMS or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR))):
            alarms.append(f"{event} {args!r:.200}")

    before = set(folder.rglob("*"))
    sys.addaudithook(hear)
    outcomes = {name: outcome(call) for name, call in cases.items()}
    listening = False
    new = [str(path) for path in set(folder.rglob("*")) - before]
    listening = True
    pickle.loads(pickle.dumps(Bomb))  # the canary is alive: this must be heard
    listening = False
    return {"alarms": alarms[:-1], "alive": alarms[-1:], "new": sorted(new), "outcomes": outcomes}


ALARMS = {
    "pickle.find_class", "exec", "compile", "import", "ctypes.dlopen", "os.system", "os.exec", "os.spawn",
    "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "socket.__new__", "os.rename", "os.remove",
}  # fmt: skip


if __name__ == "__main__":
    warnings.simplefilter("error")
    # A kill loses nothing that was written, and power cuts are played in memory: do not wait for disks.
    os.fsync = lambda file: None
    os.chdir(sys.argv[2])
    modes = {"kills": kills, "averages": averages, "replay": replay, "hostile": hostile}
    print(json.dumps(modes[sys.argv[1]](Path(sys.argv[2]))))
