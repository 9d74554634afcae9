"""A worker of a sweep: it takes trials from the queue, runs their commands and writes their outcomes.

Any number of workers can share one sweep. Each trial is finished once. If a worker dies, another worker
resumes its trial.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from ddim.errors import Locked, NoSpace, UserError
from ddim.evaluation.record import Evaluation
from ddim.experiments import index
from ddim.experiments.evaluations import is_plain, represents_run
from ddim.experiments.index import Run
from ddim.experiments.sweep.folder import Sweep, write_trial_recipe
from ddim.experiments.sweep.outcome import Outcome, read_outcome
from ddim.experiments.sweep.plan import Trial, Unfit, build_recipe
from ddim.experiments.sweep.search_space import parse_space
from ddim.experiments.sweep.trial_queue import TakenTrial, TrialQueue
from ddim.files import is_locked
from ddim.machine.signals import stop_on_signals
from ddim.runs.folder import RUN

POLL = 0.2
"""Seconds between two checks of the child processes and the queue."""

Commands = Callable[[Trial], list[list[str]]]
"""Returns the command lines of a trial; each is run only if the previous command ended with exit code 0."""


def run_trials(
    sweep: Sweep,
    jobs: int = 1,
    tell: Callable[[str], None] = print,
    commands: Commands | None = None,
    queue: TrialQueue | None = None,
    threads: int | None = None,
) -> None:
    """Run trials, `jobs` at a time, until all trials of the sweep have ended, here or in other workers.

    If a trial fails, its outcome records this, and the other trials continue. After Ctrl-C, SIGTERM,
    SIGHUP or SIGUSR1, the running commands save a checkpoint and stop, and their trials return to the queue.

    Args:
        sweep: the sweep.
        jobs: number of trials at a time.
        tell: called with a sentence whenever a trial starts or ends.
        commands: returns the commands of a trial; by default `ddim train` and `ddim evaluate`.
        queue: the queue of trials; by default with a grace period of a minute.
        threads: processor threads of a trial. By default, several jobs share the cores equally, and a single
            job has the default of `ddim train`.

    Raises:
        UserError: if `jobs` is below 1, Optuna is not installed, or the storage does not answer.
        Stopped: after Ctrl-C, SIGTERM, SIGHUP or SIGUSR1.
        NoSpace: if the disk is full.
    """
    check_jobs(jobs)
    sweep.make_folders()
    queue = queue or TrialQueue(sweep)
    commands = commands or (lambda trial: trial_commands(sweep, trial, jobs, threads))
    active: list[_Job] = []
    looked = float("-inf")
    with stop_on_signals():
        try:
            while True:
                active = [job for job in active if not job.is_over()]
                if not active and all(sweep.outcome_file(trial).exists() for trial in sweep.trials):
                    return
                while len(active) < jobs and (taken := queue.take()):
                    active.append(_Job(queue, taken, commands, tell))
                if len(active) < jobs and time.monotonic() - looked > queue.interval:
                    queue.refill()
                    looked = time.monotonic()
                time.sleep(POLL)
        except BaseException:
            _stop(queue, active)
            raise


def check_jobs(jobs: int) -> None:
    """Check that `jobs`, the number of trials at a time, is at least 1.

    Raises:
        UserError: if `jobs` is below 1.
    """
    if jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {jobs}")


def trial_commands(sweep: Sweep, trial: Trial, jobs: int, threads: int | None = None) -> list[list[str]]:
    """Return the commands of a trial: train, and evaluate if the sweep asks for a missing evaluation."""
    run = sweep.run_folder(trial)
    ddim = [sys.executable, "-m", "ddim"]
    train = [*ddim, "train", "--recipe", str(sweep.recipe_file(trial)), "--out", str(run), "--resume"]
    # A run keeps the number of threads that it started with, so the option is only for a new run.
    if (jobs > 1 or threads) and not (run / RUN).exists():
        train += ["--threads", str(threads or max(1, _cores() // jobs))]
    samples = sweep.request.evaluate
    if not samples or sweep_evaluation(index.read_run(run), samples):
        return [train]
    evaluate = [*ddim, "evaluate", str(run), "-n", str(samples)]
    # A trial whose guidance was searched is still compared with the others.
    evaluate += ["--guidance", "1"]
    if (trial.recipe or {}).get("data", {}).get("labels") is True:
        # The reference images are of all classes, so the samples must be too. For clusters and vectors, this
        # is the default.
        evaluate += ["--label", "all"]
    return [train, evaluate]


def sweep_evaluation(run: Run, samples: int) -> Evaluation | None:
    """Return the newest of a run's evaluations that have the settings of sweeps.

    Return None if there is no such evaluation, or if the run is not finished.
    """
    if run.state != "finished":
        return None

    def is_wanted(evaluation: Evaluation) -> bool:
        same = evaluation.generated.images == samples and is_plain(run, evaluation)
        return same and represents_run(run, evaluation)

    return next((each for each in reversed(run.evaluations) if is_wanted(each)), None)


class _Job:
    """A trial of this worker, and its child process."""

    def __init__(
        self, queue: TrialQueue, taken: TakenTrial, commands: Commands, tell: Callable[[str], None]
    ) -> None:
        self.queue, self.sweep, self.taken = queue, queue.sweep, taken
        self.trial, self.commands, self.tell = taken.trial, commands, tell
        self.log, self.started = self.sweep.log_file(self.trial), time.monotonic()
        self.left: list[list[str]] = []
        self.child: subprocess.Popen[bytes] | None = None

    def is_over(self) -> bool:
        """Return whether the job has ended; send a heartbeat, and start the next command if one can start."""
        if not self.queue.beat(self.taken):
            self.tell(f"{self.trial.name} was given to another worker: this worker sent no heartbeat in time")
            self.end(kill=True)
            return True
        if self.child is None:
            # If the earlier worker died, its child process may still be training. Then this job must wait.
            return not is_locked(self.sweep.run_folder(self.trial)) and not self._start()
        code = self.child.poll()
        if code is None:
            return False
        if code == NoSpace.exit_code:
            # Every further trial would fail for the same reason.
            raise NoSpace(_last_line(self.log))
        if code == 0 and self.left:
            self._run(self.left.pop(0))
        elif code == Locked.exit_code:
            # When this worker checked the lock, the child of a dead worker was still reading images and had
            # not taken the lock. The commands start again when that child has ended.
            self.child = None
        else:
            self._finish(code, _last_line(self.log))
            return True
        return False

    def end(self, kill: bool = False) -> None:
        """Ask the child process to save and exit, or kill it."""
        if self.child is not None and self.child.poll() is None:
            self.child.kill() if kill else self.child.terminate()

    def _start(self) -> bool:
        """Start the first command and return True; return False if there is nothing to run."""
        outcome = read_outcome(self.sweep.outcome_file(self.trial))
        if outcome is not None:
            # An earlier worker died after it wrote the outcome, but before it reported it to the study.
            self.queue.finish(self.taken, outcome)
            return False
        try:
            self._prepare()
        except Unfit as error:
            self._finish(error.exit_code, str(error))
            return False
        values = ", ".join(f"{name} {value}" for name, value in (self.trial.fields or {}).items())
        resumed = (self.sweep.run_folder(self.trial) / RUN).exists()
        self.tell(f"{self.trial.name} {'resumes' if resumed else 'starts'}: {values}")
        first, *self.left = self.commands(self.trial)
        self._run(first)
        return True

    def _prepare(self) -> None:
        """Write the recipe file of the trial; in a search, Optuna proposes its values first."""
        if self.trial.recipe is None:
            from ddim.recipe.codec import dump, load_recipe

            choice = self.queue.propose(self.taken, parse_space(self.sweep.request.fields or {}))
            recipe = dump(build_recipe(self.sweep.request, load_recipe(self.sweep.base), choice))
            self.trial = replace(self.trial, fields=choice, recipe=recipe)
        write_trial_recipe(self.sweep, self.trial)

    def _run(self, command: list[str]) -> None:
        with _open_log(self.log) as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            # The child has a new session, so that Ctrl-C reaches only the worker, which then ends the child.
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            self.child = subprocess.Popen(command, start_new_session=True, **streams)

    def _finish(self, code: int, message: str) -> None:
        seconds = round(time.monotonic() - self.started, 1)
        value = None if code else _objective(self.sweep, self.trial)
        outcome = Outcome(code, seconds, message, value)
        outcome.write(self.sweep.outcome_file(self.trial))
        self.queue.finish(self.taken, outcome)
        self.tell(f"{self.trial.name} {f'failed: {message}' if code else f'finished in {seconds:.0f} s'}")


def _stop(queue: TrialQueue, active: Sequence[_Job]) -> None:
    """End the child processes and return their trials to the queue.

    The children save first. A second Ctrl-C kills them immediately.
    """
    for job in active:
        job.end()
    try:
        while any(job.child is not None and job.child.poll() is None for job in active):
            for job in active:
                queue.beat(job.taken)
            time.sleep(0.05)
    except (KeyboardInterrupt, UserError, NoSpace):
        for job in active:
            job.end(kill=True)
    for job in active:
        if job.child is not None:
            job.child.wait()
        queue.free(job.taken)


def _objective(sweep: Sweep, trial: Trial) -> float | None:
    """Return the number that a search minimises: the KID if the sweep measures it, else the image MAE."""
    run = index.read_run(sweep.run_folder(trial))
    if not sweep.request.evaluate:
        return run.errors.get("image_mae")
    evaluation = sweep_evaluation(run, sweep.request.evaluate)
    return evaluation.value("kid") if evaluation else None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open_log(path: Path) -> BinaryIO:
    """Open the log of a trial, to which lines are added.

    Raises:
        UserError: if it is not a regular file.
    """
    # In a folder from other people, a link could lead to any file of the user.
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UserError(f"{path} is a link or no regular file, and is not written to: remove it")
    no_link = getattr(os, "O_NOFOLLOW", 0)
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags | no_link, 0o666))


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
