"""Run commands of `ddim` on a disk that becomes full, and run them again when there is room.

`python tests/support/full_disks.py FOLDER [--budgets 32] [--commands train,sample,...] [--seed 0]` gives each
command a small file system (tmpfs, which needs root) and leaves it only a budget of free bytes, drawn between
nothing and what the command needs. It prints a report as JSON, and exits with 1 unless each command ended
with exit code 3 and one sentence, left no unfinished file and every earlier checkpoint whole, and ended with
the results of an undisturbed one when the disk had room. It is a script because it forks, as kill.py does.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ddim.evaluation.evaluate
import ddim.experiments.sweep  # noqa: F401  (imported before the forks)
import ddim.metrics.features
import stubs
from ddim.errors import NoSpace
from ddim.runs import checkpoint
from distinct_images import draw_photos
from kill import Life
from signals import LONGER, PLAIN, UNFINISHED, find_differing

SIZE = 64 * 2**20
FILL = "filling"


@dataclass
class Command:
    """A command; its output, and with `cache` its cache too, are on the small disk."""

    name: str
    words: list[str]
    cache: bool = False
    resume: bool = False


def _commands(home):
    run, sweep = str(home / "run"), ["sweep", "blossoms:60", "--optim.lr", "1e-3,2e-3"]
    short = ["--recipe", "smoke", "--images", "160"]
    return [
        Command("train", ["train", *LONGER, "--report.events", "6"], resume=True),
        Command("sample", ["sample", run, "-n", "40", "--steps", "4", "--film"]),
        Command("evaluate", ["evaluate", run, "-n", "100", "--steps", "4", "--part", "train"], cache=True),
        Command("sweep", [*sweep, *short], cache=True),
        Command("cache", ["train", str(home / "photos"), *PLAIN[1:]], cache=True, resume=True),
    ]


@contextmanager
def small_disk(place):
    """A file system of `SIZE` bytes at `place`."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "ddim-test", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def _leave(place, free):
    """Fill the disk at `place` until so many bytes are free."""
    (place / FILL).unlink(missing_ok=True)
    left = shutil.disk_usage(place).free
    with (place / FILL).open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, left - free))


def _live(command, disk, out):
    def prepare():
        os.environ["DDIM_CACHE"] = str(disk / "cache" if command.cache else disk.parent / "cache")
        ddim.metrics.features.load_extractor = lambda *_: stubs.stub()

    again = ["--resume"] if command.resume and (out / "run.json").exists() else []
    life = Life([*command.words, "--out", str(out), *again], prepare)
    life.over(wait=True)
    return life


def _try_budgets(home, command, count, draw):
    """Run a command with `count` budgets; return what was seen."""
    disk, found = home / "disk", {"budgets": 0, "full": 0, "enough": 0, "slowest": 0.0, "wrong": []}
    with small_disk(disk):
        before = shutil.disk_usage(disk).free
        life = _live(command, disk, disk / "whole")
        needed = before - shutil.disk_usage(disk).free
        shutil.copytree(disk / "whole", home / f"{command.name} whole", dirs_exist_ok=True)
    if life.code:
        raise RuntimeError("".join(life.said[-3:]))
    for k in range(count):
        # One of each equal part of the range, so that all moments of the command are met.
        budget = int(needed * (k + draw.random()) / count)
        with small_disk(disk):
            _leave(disk, budget)
            began = time.monotonic()
            life = _live(command, disk, disk / "out")
            found["slowest"] = round(max(found["slowest"], time.monotonic() - began), 1)
            wrong = _judge(command, disk, life, home / f"{command.name} whole", found)
        found["budgets"] += 1
        found["wrong"] += [f"{budget} of {needed} bytes: {text}" for text in wrong]
    return found


def _judge(command, disk, life, whole, found):
    """Return sentences on what a command did wrong with too little room, and after it had room again."""
    out, wrong = disk / "out", []
    said = [line for line in life.said if line.startswith("ddim: ")]
    if life.code == 0:
        found["enough"] += 1
    elif life.code == NoSpace.exit_code and len(said) == 1 and "Traceback" not in "".join(life.said):
        found["full"] += 1
    else:
        wrong.append(f"exit code {life.code}: {''.join(life.said[-4:])}")
    wrong += [f"left {path.name}" for name in UNFINISHED for path in disk.rglob(name)]
    if list(out.glob("trials/*.outcome.json")) and life.code:
        wrong += [
            f"{path.name} failed"
            for path in out.glob("trials/*.outcome.json")
            if '"exit_code": 0' not in path.read_text()
        ]
    checkpoint.find_newest(out / "checkpoints")  # renames damaged ones
    wrong += [f"damaged: {path}" for path in out.rglob("damaged-*")]
    (disk / FILL).unlink()
    life = _live(command, disk, out)
    if life.code:
        return [*wrong, f"with room again, exit code {life.code}: {''.join(life.said[-3:])}"]
    return wrong + [f"{name} differs" for name in find_differing(whole, out)]


def report():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--budgets", type=int, default=32)
    parser.add_argument("--commands", help="names, with commas between them (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    home, draw, began = args.folder.resolve(), random.Random(args.seed), time.monotonic()
    shutil.rmtree(home, ignore_errors=True)
    (home / "photos").mkdir(parents=True)
    draw_photos(home / "photos", 200)
    chosen = [c for c in _commands(home) if not args.commands or c.name in args.commands.split(",")]
    life = _live(Command("run", ["train", *PLAIN]), home / "disk", home / "run")
    if life.code:
        raise RuntimeError("".join(life.said[-3:]))
    found = {command.name: _try_budgets(home, command, args.budgets, draw) for command in chosen}
    print(json.dumps({"seconds": round(time.monotonic() - began, 1), "commands": found}))
    return any(result["wrong"] for result in found.values())


if __name__ == "__main__":
    sys.exit(report())
