"""A worker of a sweep: claims trials, runs their commands, writes down how each ended.

Any number of them work on one folder. Each trial ends once; one whose worker was killed is taken up by
another, where it stopped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ddim.errors import FolderLocked, NoSpace, UserError
from ddim.experiments import index as runs
from ddim.experiments.conditions import counts, way
from ddim.experiments.index import Run
from ddim.experiments.sweep import optuna_search as tuning
from ddim.experiments.sweep.claims import LEASE, Claim, Claims
from ddim.experiments.sweep.plan import STEPS, Sweep, Trial, Unfit, prepared
from ddim.files import is_locked, make_folder, read_json, write_json
from ddim.metrics.catalogue import DEFAULT

NO_SPACE = 3
"""What a command exits with when the disk is full: the next trial would end so too."""
UNFIT = 2
"""What a command exits with when it was asked for what cannot be."""

Commands = Callable[[Trial], list[list[str]]]
"""What makes a trial: command lines, each run when the one before has ended with 0."""


def work(
    sweep: Sweep,
    jobs: int = 1,
    tell: Callable[[str], None] = print,
    commands: Commands | None = None,
    lease: float = LEASE,
) -> None:
    """Do trials, `jobs` at a time, until every trial of the sweep has ended, here or with another worker.

    A trial that fails is written down, and the others go on. Ctrl-C, SIGTERM and SIGHUP stop the children,
    which save, and free their trials: KeyboardInterrupt. `NoSpace` where the disk is full.
    """
    check_jobs(jobs)
    for name in ("claims", "logs", "results", "recipes", "proposals", "trials"):
        make_folder(sweep.folder / name)
    commands = commands or (lambda trial: training(sweep, trial, jobs))
    claims = Claims(sweep.folder / "claims", lease)
    active: list[_Job] = []
    with _signals():
        try:
            while True:
                active = [job for job in active if not job.over()]
                left = [trial for trial in sweep.trials if not sweep.result(trial).exists()]
                if not left and not active:
                    return
                own = {job.trial.name for job in active}
                for trial in left:
                    if len(active) < jobs and trial.name not in own:
                        claim = _claimed(sweep, trial, claims)
                        active += [_Job(sweep, trial, claim, commands, tell)] if claim else []
                time.sleep(min(0.2, lease / 50))
        except BaseException:
            _stop(active)
            raise


def check_jobs(jobs: int) -> None:
    """UserError where no trial could be done."""
    if jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {jobs}")


def training(sweep: Sweep, trial: Trial, jobs: int) -> list[list[str]]:
    """Train, and evaluate where that was asked for and is not done."""
    run = sweep.run(trial)
    ddim = [sys.executable, "-m", "ddim"]
    train = [*ddim, "train", "--recipe", str(sweep.recipe(trial)), "--out", str(run), "--resume"]
    # A run keeps the threads that it began with.
    if jobs > 1 and not (run / runs.RUN).exists():
        train += ["--threads", str(max(1, _cores() // jobs))]
    if not sweep.asked.evaluate or evaluation(runs.read(run), sweep.asked.evaluate):
        return [train]
    evaluate = [*ddim, "evaluate", str(run), "-n", str(sweep.asked.evaluate), "--steps", str(STEPS)]
    if (trial.recipe or {}).get("data", {}).get("labels"):
        # As the KID of a training: the reference holds all classes.
        evaluate += ["--label", "all"]
    return [train, evaluate]


def evaluation(run: Run, pictures: int) -> Mapping[str, Any] | None:
    """The record of the newest evaluation of a finished run that was made as a sweep makes it, or None."""
    if run.state != "finished":
        return None

    def asked(record: Mapping[str, Any]) -> bool:
        how = way(run, record)
        label = ("label all, guidance 1",) if run.recipe["data"].get("labels") else ()
        mine = how.pictures == pictures and how.sampled == (f"{STEPS} steps", "weights ema", *label)
        return mine and how.extractor == DEFAULT and how.reference[1] == "valid" and counts(run, record)

    return next((record for record in reversed(run.records) if asked(record)), None)


def _claimed(sweep: Sweep, trial: Trial, claims: Claims) -> Claim | None:
    """A claim on the trial, or None where another worker has it or has ended it."""
    claim = claims.take(trial.name)
    # Its last holder may have ended it after this worker looked, and let go only then.
    if claim is not None and sweep.result(trial).exists():
        claim.release()
        return None
    return claim


class _Job:
    """A claimed trial and its child process."""

    def __init__(
        self, sweep: Sweep, trial: Trial, claim: Claim, commands: Commands, tell: Callable[[str], None]
    ) -> None:
        self.sweep, self.trial, self.claim, self.commands, self.tell = sweep, trial, claim, commands, tell
        self.log, self.began = sweep.log(trial), time.monotonic()
        self.left: list[list[str]] = []
        self.child: subprocess.Popen[bytes] | None = None

    def over(self) -> bool:
        """Look after the trial, without waiting; whether this worker is done with it."""
        if not self.claim.beat():
            self.tell(
                f"{self.trial.name} is another worker's now: this one gave no sign of life for too long"
            )
            self.end(kill=True)
            return True
        if self.child is None:
            # The child of a worker that was killed lives on, and may still be training.
            if not is_locked(self.sweep.run(self.trial)):
                return not self._begin()
            return False
        code = self.child.poll()
        if code is None:
            return False
        if code == NO_SPACE:
            raise NoSpace(_last_line(self.log))
        if code == 0 and self.left:
            self._start(self.left.pop(0))
        elif code == FolderLocked.exit_code:
            # The child of a killed worker was still reading images when this one looked, and locked first.
            self.child = None
        else:
            self._finish(code, _last_line(self.log))
            return True
        return False

    def end(self, kill: bool = False) -> None:
        """Ask the child to save and end, or end it at once."""
        if self.child is not None and self.child.poll() is None:
            self.child.kill() if kill else self.child.terminate()

    def _begin(self) -> bool:
        """Start the first command; False where the trial has none, because no recipe can have its values."""
        try:
            self.trial = prepared(self.sweep, self.trial)
        except Unfit as error:
            self._finish(UNFIT, str(error))
            return False
        said = ", ".join(f"{name} {value}" for name, value in (self.trial.fields or {}).items())
        self.tell(f"{self.trial.name} {'begins' if self.claim.first else 'goes on'}: {said}")
        first, *self.left = self.commands(self.trial)
        self._start(first)
        return True

    def _start(self, command: list[str]) -> None:
        with self.log.open("ab") as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            # In a session of its own: Ctrl-C comes to the worker alone, which passes it on once.
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            self.child = subprocess.Popen(command, start_new_session=True, **streams)

    def _finish(self, code: int, last: str) -> None:
        seconds = time.monotonic() - self.began
        if self.sweep.asked.search:
            _judge(self.sweep, self.trial, code)
        document = {"exit": code, "seconds": round(seconds, 1), "last": last}
        write_json(self.sweep.result(self.trial), document)
        self.claim.release()
        self.tell(f"{self.trial.name} {f'failed: {last}' if code else f'is finished, {seconds:.0f} s'}")


def _stop(active: Sequence[_Job]) -> None:
    """End the children, which save first (a second Ctrl-C does not wait for that); free their trials."""
    for job in active:
        job.end()
    try:
        while any(job.child is not None and job.child.poll() is None for job in active):
            for job in active:
                job.claim.beat()
            time.sleep(0.05)
    except KeyboardInterrupt:
        for job in active:
            job.end(kill=True)
    for job in active:
        if job.child is not None:
            job.child.wait()
        job.claim.release()


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a worker as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    kinds = [getattr(signal, name) for name in names if hasattr(signal, name)]
    saved = {kind: signal.signal(kind, interrupt) for kind in kinds}
    try:
        yield
    finally:
        for kind, before in saved.items():
            signal.signal(kind, before)


def _judge(sweep: Sweep, trial: Trial, code: int) -> None:
    """Tell the search how good a trial is: by its KID where that was asked for, else its image MAE."""
    run = runs.read(sweep.run(trial))
    value = run.errors.get("image_mae")
    if sweep.asked.evaluate:
        record = evaluation(run, sweep.asked.evaluate)
        value = record["metrics"]["kid"]["value"] if record else None
    tuning.tell(sweep.folder, read_json(sweep.proposal(trial))["number"], value if code == 0 else None)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
