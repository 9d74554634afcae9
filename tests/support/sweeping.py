"""Sweeps with trials that take no time; `python sweeping.py SWEEP GRACE PAUSE` is one worker of such a sweep.

A trial counts to `STEPS` instead of training. Like a training it locks its run folder, resumes where it
stopped, does nothing if it is finished, and writes the files of a run. Its validation error is the learning
rate of its recipe, if it has one.
"""

import json
import sys
from contextlib import suppress
from functools import partial
from unittest.mock import patch

import ddim
from ddim.errors import UserError
from ddim.experiments.index import OUTCOME, TRIAL, beside
from ddim.recipe.codec import dump, override
from ddim.recipe.named import smoke

STEPS = 4

TRIAL_PROGRAM = f"""
import json, sys, time
from contextlib import ExitStack
from pathlib import Path
from ddim.errors import Locked
from ddim.files import lock_folder
run, pause, recipe = Path(sys.argv[1]), float(sys.argv[2]), json.loads(sys.argv[3])
rate = recipe["optim"]["lr"]
run.mkdir(parents=True, exist_ok=True)
with ExitStack() as locked:
    try:
        locked.enter_context(lock_folder(run))
    except Locked as error:
        sys.exit(error.exit_code)
    (run / "run.json").write_text(json.dumps({{"recipe": recipe}}))
    log = (run / "metrics.jsonl").open("a")
    done = len((run / "metrics.jsonl").read_text().splitlines())
    with (run / "starts").open("a") as starts:
        print(done, file=starts)
    for step in range(done + 1, {STEPS} + 1):
        time.sleep(pause)
        print(json.dumps({{"step": step, "images": step, "image_mae": rate}}), file=log, flush=True)
    if done < {STEPS}:
        with (run / "ended").open("a") as ended:
            print("ended", file=ended)
"""


def plan_sweep(folder, names, storage=None):
    """Plan a sweep of trials with these names, of which none has run, and return their folders."""
    recipe = dump(override(smoke(), {"images": STEPS, "optim.batch": 1}))

    def stop(*_):
        raise UserError("planned")

    planned = patch("ddim.experiments.sweep.plan_trials", lambda _: dict.fromkeys(names, recipe))
    with planned, patch("ddim.experiments.sweep.trial_commands", stop), suppress(UserError):
        ddim.sweep(fields={"optim.lr": [1, 2]}, out=folder, storage=storage)
    return [folder / "trials" / name for name in names]


def unfinished(trials):
    """Return the trials that have not ended."""
    return [trial for trial in trials if not beside(trial, OUTCOME).exists()]


def count(trial, request, values, jobs=1, pause=0.01):
    """Return the commands of a trial that counts, `pause` seconds a step."""
    recipe = json.loads(beside(trial, TRIAL).read_text())
    recipe["images"], recipe["optim"]["batch"] = STEPS, 1
    recipe["optim"]["lr"] = float(values.get("optim.lr", recipe["optim"]["lr"]))
    return [[sys.executable, "-c", TRIAL_PROGRAM, str(trial), str(pause), json.dumps(recipe)]]


def work(folder, jobs=1, commands=count, grace=60):
    """Be a worker, and return the sweep; `commands` replaces `trial_commands`."""
    replaced = patch("ddim.experiments.sweep.trial_commands", commands)
    with replaced, patch("ddim.experiments.sweep.GRACE", grace):
        return ddim.sweep(out=folder, jobs=jobs)


def lines(path):
    """Return the lines of a file; an empty list if the file is missing."""
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    work(sys.argv[1], 1, partial(count, pause=float(sys.argv[3])), int(sys.argv[2]))
