"""Stop each function that writes files at each of its changes of a folder, and check what is left.

`python tests/support/killed_writers.py FOLDER` prints as JSON how many places were tried for each function
and fault. The faults are: the process is killed; a change fails with EIO; a read fails with EIO; the power is
cut, so that data that was not flushed to the disk may be lost. For a power cut, the number is that of the
different folder contents that may be left. `--faults` and `--writers` choose some by name, and `--every N`
tries each Nth place. This is a script because it forks, and because an audit hook cannot be removed.
"""

import argparse
import errno
import hashlib
import itertools
import json
import os
import shutil
import signal
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image

import crash
import ddim
import stubs
import tiny
from ddim.data import open_images
from ddim.errors import UserError
from ddim.evaluation.diagnosis_report import write_diagnosis
from ddim.experiments.index import find_runs
from ddim.experiments.report import write_report
from ddim.experiments.sweep.folder import begin_sweep
from ddim.experiments.sweep.outcome import Outcome
from ddim.experiments.sweep.plan import SweepRequest
from ddim.metrics import features
from ddim.runs.edit_folder import EditOutput, write_edit
from ddim.runs.file_edits import Variations
from ddim.runs.sample_folder import Output, write_samples
from ddim.runs.sampling_setup import SamplingSetup
from ddim.runs.searched_guidance import SavedGuidance, save_guidance
from power_cuts import Disk, hash_state

CHANGES = {"os.rename": 0, "os.remove": 0, "os.rmdir": 0, "os.mkdir": 0, "os.link": 1, "os.symlink": 1}
"""The audit events of changes of a folder, with the index of the argument that is the changed path."""

READS = ("os.listdir", "os.scandir")
"""The audit events of reading a folder. Reading a file has the event "open", which may also be a change."""

FAULTS = ("kill", "write-error", "read-error", "power-cut")

SAMPLES = "samples/record.json"

TIMES = ("time", "seconds", "seal", "study", "kept")
"""Entries of documents that differ between two equal calls."""


# Stopping before the n-th change


def ignore(*_):
    """Do nothing before a change."""


class Stop:
    """Counts the changes below a folder, and stops the process before one of them."""

    def __init__(self):
        self.folder, self.left, self.act, self.reads, self.direct = Path(), 0, None, False, []
        sys.addaudithook(self._see)

    @contextmanager
    def watch(self, folder, n=0, act=ignore, reads=False):
        """Call `act` before the n-th change, or read, below `folder` in this block; never if n is 0."""
        self.folder, self.left, self.act, self.reads, self.direct = folder, n, act, reads, []
        try:
            yield
        finally:
            self.act = None

    def _see(self, event, args):
        if not self.act or event not in ("open", *CHANGES, *READS):
            return
        path = args[CHANGES.get(event, 0)]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        place = Path(os.fsdecode(path))
        inside = place.is_relative_to(self.folder)
        changes = event in CHANGES or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR))
        if changes and event == "open" and inside and not has_temporary_name(place.relative_to(self.folder)):
            self.direct.append(str(place))
        # Removing a folder names its files relative to it.
        if bool(changes) != self.reads and (inside or (changes and not place.is_absolute())):
            self.count(event, str(place))

    def count(self, event, path=""):
        """Count one change."""
        self.left -= 1
        if self.left == 0:
            self.act(event, path)


def has_temporary_name(name):
    """Return whether a file has a temporary name or is in a folder of events, so that it may be incomplete.

    Files of events have random names, and lines are added to them in place.
    """
    return any(part.startswith(".") or part == "events" for part in name.parts)


STOP = Stop()


@contextmanager
def counted_flushes(after=ignore):
    """Count each flush to the disk as a change, and call `after(file)` after it."""
    fsync = os.fsync

    def counted(file):
        if STOP.act and not STOP.reads:
            STOP.count("fsync")
        fsync(file)
        after(file)

    os.fsync = counted
    try:
        yield
    finally:
        os.fsync = fsync


def stopped(work, folder, n, fault):
    """Run `work(folder)` in a forked process with a fault at its n-th change or read; return its event.

    Return "" if there are fewer changes or reads. With the fault "kill", the process is killed there. With
    another fault, the change or read raises EIO, and `work` must raise an error for users or continue.
    """
    reader, writer = os.pipe()

    def act(event, path):
        os.write(writer, event.encode())
        if fault != "kill":
            raise OSError(errno.EIO, os.strerror(errno.EIO), path or None)
        os.kill(os.getpid(), signal.SIGKILL)

    def run():
        try:
            with counted_flushes(), STOP.watch(folder, n, act, fault == "read-error"):
                work(folder)
        except (OSError, UserError):
            if fault == "kill":
                raise

    crash.child(run)
    os.close(writer)
    with open(reader, "rb") as said:
        return said.read().decode()


# What is left


def timeless(value):
    """Return a JSON value without the entries of TIMES."""
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key not in TIMES}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def visible(folder):
    """Return the files below a folder that have no temporary name, as {path: content}.

    Surveys are left out: whether they are kept depends on the age of the images.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not has_temporary_name(name) and "surveys" not in name.parts:
            data = path.read_bytes()
            if path.suffix == ".json":
                document = timeless(json.loads(data))
                if str(name) == SAMPLES:
                    # This record says how far the samples are, so that another call goes on.
                    made = [document.pop(key) for key in ("seeds", "nfe", "film")][0]
                    assert all((path.parent / f"{seed:05d}.png").is_file() for seed in made)
                data = json.dumps(document).encode()
            found[str(name)] = hashlib.sha256(data.replace(os.fsencode(folder), b"FOLDER")).hexdigest()
    return found


def litter(folder):
    """Return the temporary files and folders below a folder."""
    return [str(path) for path in folder.rglob(".*") if path.name.startswith((".tmp", ".building", ".new"))]


def check_left(left, old, new, fault):
    """Check that each file has its old or new content, and that a new record has all files of its folder."""
    for name, content in left.items():
        if name.startswith(("report", "out/README.md")) and name in new and fault == "read-error":
            continue  # Reports and cards leave out what cannot be read, and say so.
        assert content in (old.get(name), new.get(name)), f"{name} is neither old nor new"
    for name in old:
        assert name in left or name not in new, f"{name} is lost"
    for name in left:
        if name.endswith("record.json") and name not in old and name != SAMPLES:
            home = name.removesuffix("record.json")
            assert {n for n in left if n.startswith(home)} == {n for n in new if n.startswith(home)}, home


def repeat(work, home, new):
    """Call `work` again, and check that it opens only temporary files for writing.

    If all its files exist already, `work` may also raise a `UserError`.
    """
    try:
        with STOP.watch(home):
            work(home)
        assert not STOP.direct, STOP.direct
    except UserError:
        if visible(home) != new:
            raise


class Writer:
    """A function that writes files, and what is in its folder before a call, after it, and after a second."""

    def __init__(self, work, folder):
        # The folder has always the same path, because files may name it.
        self.work, self.home, self.start = work, folder / "here", folder / "start"
        # Import here what each child would import again, and forget which folders were looked through.
        self.put()
        work(self.home)
        self.old = visible(self.start)
        self.put()
        self.new = {}  # So the first call is no repetition.
        self.new = self.call()
        self.twice = self.call()

    def put(self):
        """Lay out what is there before a call."""
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(self.start, self.home)

    def call(self):
        """Call the function to its end; return what is left."""
        crash.child(lambda: repeat(self.work, self.home, self.new))
        return visible(self.home)

    def measure(self, fault, every):
        """Stop the function at each `every`-th place; return the number of places that were tried."""
        tried = 0
        for n in self._cuts(every) if fault == "power-cut" else self._stops(fault, every):
            check_left(visible(self.home), self.old, self.new, fault)
            again = self.call()
            assert again in (self.new, self.twice), (n, set(again.items()) ^ set(self.new.items()))
            tried += 1
        return tried

    def _stops(self, fault, every):
        for n in itertools.count(1, every):
            self.put()
            event = stopped(self.work, self.home, n, fault)
            if not event:
                break
            # What cannot be removed stays until the next start.
            if fault != "kill" and event not in ("os.remove", "os.rmdir"):
                assert not litter(self.home), (event, litter(self.home))
            yield n

    def _cuts(self, every):
        self.put()
        for n, (state, ended) in enumerate(cut_power(self.work, self.home)):
            if n % every == 0:
                self.put()
                lay_out(self.home, state)
                assert not ended or visible(self.home) == self.new, "a power cut takes away what was done"
                yield n


def cut_power(work, home):
    """Call `work(home)`; return what a power cut may leave, as (state, whether the call had ended)."""
    found, disk = {}, Disk(home)

    def look(*_, ended=False):
        for state in disk.states():
            found[hash_state(state)] = state, ended
        # This is called before each change, whatever the number of the first one.
        STOP.left = 1

    with counted_flushes(disk.fsync), STOP.watch(home, 1, look):
        work(home)
        look(ended=True)
    disk.close()
    return found.values()


def lay_out(home, state):
    """Bring a folder into a state; the times of unchanged files stay."""
    for path in sorted(home.rglob("*"), reverse=True):
        if str(path.relative_to(home)) not in state:
            path.rmdir() if path.is_dir() else path.unlink()
    for name, data in state.items():
        path = home / name
        if data is None:
            path.mkdir(exist_ok=True)
        elif not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)


# The functions


def prepare(folder):
    """Make the images and the run that the functions need."""
    (folder / "photos").mkdir(parents=True)
    for k, image in enumerate(tiny.images(40, (16, 16)).pixels):
        Image.fromarray(image).save(folder / "photos" / f"{k}.png")
    fields = {
        "data__source": str(folder / "photos"),
        "data__size": 16,
        "data__validation": 0.5,
        "report__snapshots": 8,
    }
    tiny.train(tiny.recipe(images=640, **fields), folder / "run", progress=False)


def sweep(folder):
    """Begin a sweep and write the outcome of a trial."""
    request = SweepRequest(recipe="smoke", fields={"objective.error": "[l1,mse]"})
    begin_sweep(request, folder / "sweep").make_folders()
    Outcome(0, 12.5, "finished", 0.25).write(folder / "sweep" / "results" / "1.json")


WRITERS = {
    "samples": lambda folder: write_samples(
        SamplingSetup(ddim.load(folder / "run"), 2), range(3), output=Output(folder / "samples", film=True)
    ),
    "evaluation": lambda folder: ddim.evaluate(folder / "run", n=20, steps=1, part="train", progress=False),
    "grids": lambda folder: ddim.search(folder / "run", 3, seeds=2),
    "guidance": lambda folder: save_guidance(
        folder / "run", ddim.DDIM(), 3, "ema", SavedGuidance(2.0, (None, 1.5), "@guide"), labelled=False
    ),
    "memorisation": lambda folder: ddim.memorisation(folder / "run", 4, 1),
    "diagnosis": lambda folder: write_diagnosis(
        ddim.diagnose(folder / "run", 4, 3), ddim.load(folder / "run")
    ),
    "edit": lambda folder: write_edit(
        folder / "run",
        Variations(folder / "photos" / "0.png", seeds=range(2)),
        2,
        output=EditOutput(folder / "edit"),
    ),
    "cache": lambda folder: open_images(str(folder / "photos"), size=(8, 8), cache=folder / "cache"),
    "sweep": sweep,
    "safetensors": lambda folder: ddim.export(folder / "run", folder / "out", to="safetensors"),
    "report": lambda folder: write_report(find_runs(folder), folder / "report.html", "Runs"),
    "average": lambda folder: ddim.reconstruct_average(folder / "run", 0.2),
}


def main():
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--writers", nargs="+", default=[*WRITERS], choices=WRITERS)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--faults", nargs="+", default=FAULTS, choices=FAULTS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # Threads do not survive a fork.
    os.environ["DDIM_CACHE"] = str(args.folder.absolute() / "here" / "cache")
    features.load_extractor = lambda *_: stubs.stub()  # features that need no time and no weights
    crash.child(lambda: prepare(args.folder / "start"))
    report = {}
    for name in args.writers:
        writer = Writer(WRITERS[name], args.folder)
        report[name] = {fault: writer.measure(fault, args.every) for fault in args.faults}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
