"""Kill `ddim train` with SIGKILL again and again, and resume it each time.

`python tests/support/kill.py FOLDER [--kills 20] [--saving 5] [--seed 0] -- OPTIONS OF ddim train ...`
trains once undisturbed and once with kills, both in FOLDER, and prints a report as JSON. It exits with 1
unless both trainings ended with the same bits and at least as many kills hit a save as were aimed at one.
This is a script because it forks: each life costs no import.

With `--recipes`, or `--recipes NAMES`, in place of the options, this is done with named recipes on small
networks and photos that each life decodes anew, and with a network that each life compiles ("compiled").
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import ddim.cli.progress
import ddim.training  # noqa: F401  (imported before the forks)
from ddim.cli import main
from ddim.recipe.codec import override, write_recipe
from ddim.recipe.named import RECIPES
from ddim.runs import checkpoint
from distinct_images import draw_photos
from small_recipes import make_small

COMPILED = "compiled"


@dataclass
class Report:
    """The kills of a run, and the differences at its end.

    `aimed` kills were aimed at a save, and `saving` hit one. `starting` kills came while the run started.
    `resumed_at` has the step of the newest checkpoint after each kill.
    """

    kills: int = 0
    aimed: int = 0
    saving: int = 0
    starting: int = 0
    resumed_at: list[int] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    seconds: float = 0.0


def torture(folder, options, kills, saving, seed=0, longest=1.0, cache=None):  # noqa: PLR0913
    """Kill a run `kills` times: `saving` of them in a save, the others within `longest` seconds.

    `options` are those of `ddim train` without --out. The folder `cache` is removed before each life.

    Raises:
        RuntimeError: if the run ends too soon or fails.
    """
    began, draw, report = time.monotonic(), random.Random(seed), Report(aimed=saving)
    whole, killed = folder / "whole", folder / "killed"

    def live(run, dying=None):
        if cache:
            shutil.rmtree(cache, ignore_errors=True)
        return Life(training(run, options), dying)

    live(whole).ends(0)
    while report.kills < kills:
        left = _unfinished(killed)
        # A save flushes about ten files and folders: some die in their first save, some in their second.
        aim = report.kills < saving
        dying = partial(_die_in_a_save, killed, draw.randint(1, 16)) if aim else None
        life = live(killed, dying)
        if not aim:
            _wait_and_kill(life, killed, draw, longest, report)
        life.ends(-signal.SIGKILL)
        report.kills += 1
        # What the dead process left half-written is the proof that it died in a save.
        report.saving += _unfinished(killed) != left
        newest = checkpoint.find_newest(killed / "checkpoints")
        report.resumed_at.append(int(newest.name[5:]) if newest else 0)
    live(killed).ends(0)
    report.different = different(whole, killed)
    report.seconds = round(time.monotonic() - began, 1)
    return report


def training(run, options):
    """The words of the `ddim train` that starts a run or continues it."""
    return ["train", *options, "--out", str(run), *(["--resume"] if run.exists() else [])]


class Life:
    """One process of `ddim`, forked from this one, which has imported all and computed nothing.

    It calls `prepare` first, if that is given. `marked` is set when it prints a line with `mark`.
    """

    def __init__(self, words, prepare=None, mark="validation images"):
        reader, writer = os.pipe()
        self.pid, self.said = os.fork(), []
        if not self.pid:
            try:
                for stream in (sys.stdout, sys.stderr):
                    os.dup2(writer, stream.fileno())
                if prepare:
                    prepare()
                code = main(words)
                sys.stderr.flush()
            except BaseException as error:  # the fork must not return into its parent's code
                os.write(writer, repr(error).encode())
                code = 99
            os._exit(code)
        os.close(writer)
        self.mark, self.marked, self.code = mark, threading.Event(), None
        self.reader = threading.Thread(target=self._read, args=(os.fdopen(reader),), daemon=True)
        self.reader.start()

    def _read(self, lines):
        with lines:
            for line in lines:
                self.said.append(line)
                if self.mark in line:
                    self.marked.set()

    def over(self, wait=False):
        """Whether it has ended; `code` is then its exit code, negative for a signal."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, 0 if wait else os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                self.reader.join()
        return self.code is not None

    def ends(self, code):
        """Wait for the end; RuntimeError unless it is this one."""
        self.over(wait=True)
        if self.code != code:
            raise RuntimeError(f"the run ended with {self.code}: {''.join(self.said[-3:])}")


def _die_in_a_save(run, flushes):
    flush, count = os.fsync, itertools.count(1)
    before = _unfinished(run)

    def die_or_flush(file):
        if _unfinished(run) != before and next(count) == flushes:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(file)

    os.fsync = die_or_flush


def _wait_and_kill(life, run, draw, longest, report):
    # Some die while they start: before they have a run folder, or before their first step, perhaps compiling.
    if report.kills % 8 == 0:
        report.starting += 1
        life.marked.wait(draw.uniform(0, longest))
    elif report.kills % 8 == 4:
        report.starting += 1
        wait_for(life, life.marked.is_set)
        time.sleep(draw.uniform(0, longest))
    else:
        wait_for(life, life.marked.is_set)
        # The first line that this process logs says that it has compiled, and makes steps.
        log = run / "metrics.jsonl"
        before = log.stat().st_size
        wait_for(life, lambda: log.stat().st_size > before)
        time.sleep(draw.uniform(0, longest))
    if not life.over():
        os.kill(life.pid, signal.SIGKILL)


def _unfinished(run):
    folders = (run / "checkpoints", run / "averages" / "snapshots")
    return {path.name for folder in folders for path in folder.glob(".tmp-*")}


def wait_for(life, condition):
    """Wait until the condition holds or the process has ended."""
    while not condition() and not life.over():
        time.sleep(0.001)


def different(whole, killed):
    """Return the sorted names of what differs between two runs.

    Compared are the tensor files of the last checkpoint and the guide, the averages, the samples, the log
    without its times, and the last step.
    """
    one, other = (_contents(run) for run in (whole, killed))
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _contents(run):
    path = checkpoint.find_newest(run / "checkpoints")
    files = [*path.rglob("*.safetensors"), *(run / "samples").iterdir()]
    files += (run / "guide").rglob("*.safetensors")
    files += [file for file in (run / "averages").rglob("*") if file.is_file()]
    found = {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    log = [{name: value for name, value in line.items() if name not in ("time", "seal")} for line in lines]
    return {**found, "metrics.jsonl": log, "step": path.name}


def torture_recipes(folder, names, kills, saving, seed=0, longest=1.0):  # noqa: PLR0913
    """Kill a run of each of these recipes, `kills` times in all; return {name: report}."""
    cache = folder / "cache"
    os.environ["DDIM_CACHE"] = str(cache)
    (folder / "photos").mkdir()
    draw_photos(folder / "photos", 300)
    found = {}
    for k, name in enumerate(names):
        share = len(range(k, kills, len(names)))
        compiling = name == COMPILED
        recipe = make_small("luz" if compiling else name)
        # A compiled network is fast, and has much to do before its first step.
        images = (4000 if compiling else 400) * (share + 2)
        fields = {"data.source": str(folder / "photos"), "images": images, "report.events": 8}
        fields |= {"report.checkpoint": 0.2, "report.snapshots": 4, "optim.warmup": 80}
        (folder / name).mkdir()
        (folder / name / "recipe.yaml").write_text(write_recipe(override(recipe, fields)))
        options = ["--recipe", str(folder / name / "recipe.yaml"), "--threads", "1"]
        options.append("--compile" if compiling else "--no-compile")
        longer = 5 * longest if compiling else longest
        found[name] = torture(folder / name, options, share, min(saving, share // 3), seed + k, longer, cache)
        print(name, vars(found[name]), file=sys.stderr, flush=True)
    return found


def report():
    """Parse, torture, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--saving", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=1.0)
    parser.add_argument("--recipes", nargs="*", choices=[*RECIPES, COMPILED])
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    args, options = parser.parse_args(words[:split]), words[split + 1 :]
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    shared = args.kills, args.saving, args.seed, args.longest
    names = [*RECIPES, COMPILED] if args.recipes == [] else args.recipes
    if names:
        found = torture_recipes(args.folder, names, *shared)
    else:
        found = {"run": torture(args.folder, options, *shared)}
    print(json.dumps({name: vars(report) for name, report in found.items()}, indent=1))
    return any(report.different or report.saving < report.aimed for report in found.values())


if __name__ == "__main__":
    sys.exit(report())
