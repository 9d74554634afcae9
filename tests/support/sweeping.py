"""Sweeps of trials that take no time: `python tests/sweeping.py SWEEP LEASE` is one worker of such a sweep.

A trial counts to `STEPS` in place of training. Like a training it holds its run folder's lock, goes on where
it was stopped, does nothing when it is finished, and writes a run's documents.
"""

import json
import sys
from pathlib import Path

from ddim.experiments.sweep.plan import read
from ddim.experiments.sweep.worker import work

STEPS = 4

TRIAL = f"""
import json, sys, time
from pathlib import Path
from ddim.files import lock_folder
run, pause = Path(sys.argv[1]), float(sys.argv[2])
run.mkdir(parents=True, exist_ok=True)
with lock_folder(run):
    (run / "run.json").write_text(json.dumps({{"recipe": {{"optim": {{"batch": 1}}, "images": {STEPS}}}}}))
    log = (run / "metrics.jsonl").open("a")
    done = len((run / "metrics.jsonl").read_text().splitlines())
    with (run / "begun").open("a") as begun:
        print(done, file=begun)
    for step in range(done + 1, {STEPS} + 1):
        print(json.dumps({{"step": step, "images": step}}), file=log, flush=True)
        time.sleep(pause)
    if done < {STEPS}:
        with (run / "ended").open("a") as ended:
            print("ended", file=ended)
"""


def sweep(folder, names, search=None):
    """A planned sweep of trials by these names."""
    asked = {"fields": {"seed": "[0,1]"}, "search": search}
    trials = [{"name": name, "fields": {"optim.lr": name}, "recipe": {"name": "stub"}} for name in names]
    folder.mkdir(parents=True, exist_ok=True)
    document = {"schema": 1, "kind": "sweep", "asked": asked, "base": {}, "trials": trials}
    (folder / "sweep.json").write_text(json.dumps(document))
    return read(folder)


def counting(planned, pause=0.01):
    """The commands of a trial that counts, `pause` seconds a step."""
    return lambda trial: [[sys.executable, "-c", TRIAL, str(planned.run(trial)), str(pause)]]


def lines(path):
    """The lines of a file; none where it is missing."""
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    there = read(Path(sys.argv[1]))
    work(there, commands=counting(there, float(sys.argv[3])), lease=float(sys.argv[2]))
