"""Sweeps with trials that take no time; `python sweeping.py SWEEP GRACE PAUSE` is one worker of such a sweep.

A trial counts to `STEPS` instead of training. Like a training it locks its run folder, resumes where it
stopped, does nothing if it is finished, and writes the files of a run.
"""

import json
import sys
from pathlib import Path

from ddim.experiments.sweep.folder import read_sweep
from ddim.experiments.sweep.trial_queue import TrialQueue
from ddim.experiments.sweep.worker import run_trials

STEPS = 4

TRIAL = f"""
import json, sys, time
from contextlib import ExitStack
from pathlib import Path
from ddim.errors import Locked
from ddim.files import lock_folder
run, pause = Path(sys.argv[1]), float(sys.argv[2])
run.mkdir(parents=True, exist_ok=True)
with ExitStack() as locked:
    try:
        locked.enter_context(lock_folder(run))
    except Locked as error:
        sys.exit(error.exit_code)
    (run / "run.json").write_text(json.dumps({{"recipe": {{"optim": {{"batch": 1}}, "images": {STEPS}}}}}))
    log = (run / "metrics.jsonl").open("a")
    done = len((run / "metrics.jsonl").read_text().splitlines())
    with (run / "starts").open("a") as starts:
        print(done, file=starts)
    for step in range(done + 1, {STEPS} + 1):
        time.sleep(pause)
        print(json.dumps({{"step": step, "images": step}}), file=log, flush=True)
    if done < {STEPS}:
        with (run / "ended").open("a") as ended:
            print("ended", file=ended)
"""


def plan_sweep(folder, names, search=None, storage=None):
    """Return a planned sweep of trials with these names."""
    trials = [{"name": name, "fields": {"optim.lr": name}, "recipe": {"name": "stub"}} for name in names]
    folder.mkdir(parents=True, exist_ok=True)
    request = {"fields": {"seed": "[0,1]"}, "search": search}
    study = {"storage": storage, "study": folder.name, "base": {}}
    document = {"schema": 1, "kind": "sweep", "request": request, **study, "trials": trials}
    (folder / "sweep.json").write_text(json.dumps(document))
    return read_sweep(folder)


def counting(planned, pause=0.01):
    """Return the commands of a trial that counts, `pause` seconds a step."""
    return lambda trial: [[sys.executable, "-c", TRIAL, str(planned.run_folder(trial)), str(pause)]]


def lines(path):
    """Return the lines of a file; an empty list if the file is missing."""
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    there = read_sweep(Path(sys.argv[1]))
    queue = TrialQueue(there, grace=int(sys.argv[2]))
    run_trials(there, commands=counting(there, float(sys.argv[3])), queue=queue)
