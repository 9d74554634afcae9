"""Run commands of `ddim` on a disk that becomes full, and run them again when there is room.

`python tests/support/full_disks.py FOLDER [--budgets 32] [--commands train,sample,...]` gives each command a
small file system (tmpfs, which needs root) and leaves it only a budget of free bytes, drawn between nothing
and what the command needs. It is a fault unless each command ends with exit code 3 and one sentence, leaves
no unfinished file and every earlier checkpoint whole, and ends with the results of an undisturbed one when
the disk has room. It forks, as kill.py does.
"""

import os
import random
import shutil
import subprocess
import sys
from contextlib import contextmanager

import ddim.evaluation.evaluate
import ddim.experiments.sweep  # noqa: F401  (imported before the forks)
import ddim.metrics.features
import stubs
from ddim.errors import NoSpace
from ddim.runs import checkpoint
from distinct_images import draw_photos
from kill import Life
from programmes import run_as_command
from signals import LONGER, PLAIN, UNFINISHED, find_differing

SIZE = 64 * 2**20
FILL = "filling"
CACHED = ("evaluate", "sweep", "cache")
"""The commands that also have their cache on the small disk."""


def _commands(home):
    run, short = str(home / "run"), ["--recipe", "smoke", "--images", "160"]
    return {
        "train": ["train", *LONGER, "--report.events", "6"],
        "sample": ["sample", run, "-n", "40", "--steps", "4", "--film"],
        "evaluate": ["evaluate", run, "-n", "100", "--steps", "4", "--part", "train"],
        "sweep": ["sweep", "blossoms:60", "--optim.lr", "1e-3,2e-3", *short],
        "cache": ["train", str(home / "photos"), *PLAIN[1:]],
    }


@contextmanager
def small_disk(place):
    """A file system of `SIZE` bytes at `place`."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "ddim-test", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def _live(words, cache, out):
    def prepare():
        os.environ["DDIM_CACHE"] = str(cache)
        ddim.metrics.features.load_extractor = lambda *_: stubs.stub()

    again = ["--resume"] if words[0] == "train" and (out / "run.json").exists() else []
    life = Life([*words, "--out", str(out), *again], prepare)
    life.over(wait=True)
    return life


def _try_budgets(home, name, words, count, draw):
    """Run a command with `count` budgets; return the faults."""
    disk, whole, faults = home / "disk", home / f"{name} whole", []
    cache = disk / "cache" if name in CACHED else home / "cache"
    with small_disk(disk):
        before = shutil.disk_usage(disk).free
        _live(words, cache, disk / "whole").ends()
        needed = before - shutil.disk_usage(disk).free
        shutil.copytree(disk / "whole", whole)
    for k in range(count):
        # One of each equal part of the range, so that all moments of the command are met.
        budget = int(needed * (k + draw.random()) / count)
        with small_disk(disk):
            with (disk / FILL).open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(disk).free - budget))
            wrong = _judge(_live(words, cache, disk / "out"), disk)
            (disk / FILL).unlink()
            life = _live(words, cache, disk / "out")
            if life.code:
                wrong.append(f"with room again, exit code {life.code}: {''.join(life.said[-3:])}")
            else:
                wrong += [f"{file} differs" for file in find_differing(whole, disk / "out")]
        faults += [f"{name}, {budget} of {needed} bytes: {text}" for text in wrong]
    return faults


def _judge(life, disk):
    """Return sentences on what a command did wrong with too little room."""
    wrong, trials = [], [path.read_text() for path in disk.glob("out/trials/*.outcome.json")]
    said = [line for line in life.said if line.startswith("ddim: ")]
    plain = len(said) == 1 and "Traceback" not in "".join(life.said)
    if life.code and not (life.code == NoSpace.exit_code and plain):
        wrong.append(f"exit code {life.code}: {''.join(life.said[-4:])}")
    if life.code and not all('"exit_code": 0' in outcome for outcome in trials):
        wrong.append("a trial failed")
    checkpoint.read_newest(disk / "out" / "checkpoints", checkpoint.verify)  # renames damaged ones
    return wrong + [f"left {path}" for name in (*UNFINISHED, "damaged-*") for path in disk.rglob(name)]


def fill_disks(folder, budgets=32, seed=0, commands=""):
    """Run some commands, all by default, with `budgets` full disks each; return a report."""
    draw, everything, faults = random.Random(seed), _commands(folder), []
    (folder / "photos").mkdir()
    draw_photos(folder / "photos", 200)
    _live(["train", *PLAIN], folder / "cache", folder / "run").ends()
    for name in commands.split(",") if commands else everything:
        faults += _try_budgets(folder, name, everything[name], budgets, draw)
        print(name, faults, file=sys.stderr, flush=True)
    return {"budgets": budgets, "faults": faults}


if __name__ == "__main__":
    run_as_command(fill_disks)
