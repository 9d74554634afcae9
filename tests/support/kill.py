"""Kill `ddim train` with SIGKILL again and again, and resume it each time.

`python tests/support/kill.py FOLDER [--kills 200] [--saving 3] [--recipes fast,ddpm,...]` trains each recipe
once undisturbed and once with kills: named recipes on small networks, and a network that each life compiles
("compiled"), on photos that each life decodes anew. It is a fault if both do not end with the same bits, or
if fewer kills of a run than `saving` hit a save. It forks, so that a life costs no import.
"""

import itertools
import os
import random
import shutil
import signal
import sys
import threading
import time
from functools import partial

import ddim.cli.progress
import ddim.training  # noqa: F401  (imported before the forks)
from ddim.cli import main
from ddim.recipe.codec import override, write_recipe
from ddim.recipe.named import RECIPES
from distinct_images import draw_photos
from programmes import run_as_command
from small_recipes import make_small
from tiny import differing_files

COMPILED = "compiled"
LAST_WORDS = 5
"""Seconds in which what an ended process has printed is read."""
QUICK = {"net.widths": "8", "net.down": "0", "net.up": "0", "net.attention": "no", "net.embedding": 8}
"""Fields of a network of one stage, which is compiled in a few kernels."""


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
                # A process that lives on, such as process 1 of two, may hold the pipe open.
                self.reader.join(LAST_WORDS)
        return self.code is not None

    def ends(self, code=0, longest=1800):
        """Wait for the end; RuntimeError unless it is this one and comes in `longest` seconds."""
        last = time.monotonic() + longest
        self.wait_for(lambda: time.monotonic() > last)
        if not self.over():
            os.kill(self.pid, signal.SIGKILL)
            self.over(wait=True)
            raise RuntimeError(f"the run has not ended in {longest} s: {''.join(self.said[-3:])}")
        if self.code != code:
            raise RuntimeError(f"the run ended with {self.code}: {''.join(self.said[-3:])}")

    def wait_for(self, condition):
        """Wait until the condition holds or the process has ended."""
        while not condition() and not self.over():
            time.sleep(0.001)


def torture(folder, options, kills, saving, longest, draw):  # noqa: PLR0913
    """Kill a run `kills` times: `saving` of them in a save, the others within `longest` seconds.

    `options` are those of `ddim train` without --out. Returns what is wrong.
    """
    whole, killed, hits = folder / "whole", folder / "killed", 0

    def live(run, dying=None):
        shutil.rmtree(os.environ["DDIM_CACHE"], ignore_errors=True)
        again = ["--resume"] if run.exists() else []
        return Life(["train", *options, "--out", str(run), *again], dying)

    live(whole).ends()
    for k in range(kills):
        left = _unfinished(killed)
        # A save flushes about ten files and folders: some die in their first save, some in their second.
        dying = partial(_die_in_a_save, killed, draw.randint(1, 16)) if k < saving else None
        life = live(killed, dying)
        if not dying:
            _wait_and_kill(life, k % 8, killed / "metrics.jsonl", draw.uniform(0, longest))
        life.ends(-signal.SIGKILL)
        # What the dead process left half-written is the proof that it died in a save.
        hits += _unfinished(killed) != left
    live(killed).ends()
    return differing_files(whole, killed) + [f"{hits} kills in a save"] * (hits < saving)


def _die_in_a_save(run, flushes):
    flush, count = os.fsync, itertools.count(1)
    before = _unfinished(run)

    def die_or_flush(file):
        if _unfinished(run) != before and next(count) == flushes:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(file)

    os.fsync = die_or_flush


def _wait_and_kill(life, when, log, seconds):
    """Kill a process, if `when` is 0 before it has a run folder, if it is 4 before it makes steps."""
    if when == 0:
        life.marked.wait(seconds)
    else:
        life.wait_for(life.marked.is_set)
        if when != 4:
            # The first line that this process logs says that it has compiled, and makes steps.
            before = log.stat().st_size
            life.wait_for(lambda: log.stat().st_size > before)
        time.sleep(seconds)
    if not life.over():
        os.kill(life.pid, signal.SIGKILL)


def _unfinished(run):
    folders = (run / "checkpoints", run / "averages" / "snapshots")
    return {path.name for folder in folders for path in folder.glob(".tmp-*")}


def torture_recipes(folder, kills=200, saving=3, longest=1.0, seed=0, recipes=""):  # noqa: PLR0913
    """Kill a run of each of the recipes, all by default, `kills` times together; see `torture`."""
    os.environ["DDIM_CACHE"] = str(folder / "cache")
    (folder / "photos").mkdir()
    draw_photos(folder / "photos", 300)
    names, draw, faults = recipes.split(",") if recipes else [*RECIPES, COMPILED], random.Random(seed), {}
    for k, name in enumerate(names):
        share, compiling = len(range(k, kills, len(names))), name == COMPILED
        # A compiled network is fast, and has much to do before its first step.
        images = (4000 if compiling else 400) * (share + 2)
        fields = {"data.source": str(folder / "photos"), "images": images, "report.events": 8}
        fields |= {"report.checkpoint": 0.2, "report.snapshots": 4, "optim.warmup": 80}
        fields |= QUICK if compiling else {}
        recipe, file = make_small("fast" if compiling else name), folder / name / "recipe.yaml"
        file.parent.mkdir()
        file.write_text(write_recipe(override(recipe, fields)))
        options = ["--recipe", str(file), "--threads", "1", "--compile" if compiling else "--no-compile"]
        longer = 5 * longest if compiling else longest
        faults[name] = torture(file.parent, options, share, min(saving, share), longer, draw)
        print(name, faults[name], file=sys.stderr, flush=True)
    return {"kills": kills, "faults": [f"{name}: {fault}" for name in names for fault in faults[name]]}


if __name__ == "__main__":
    run_as_command(torture_recipes)
