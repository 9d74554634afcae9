"""Train the trials of a sweep, runs that differ in fields of their recipe, with any number of workers.

A sweep is a folder. ``sweep.json`` holds the plan, ``trials/NAME`` is the run folder of a trial,
``recipes/NAME.json`` is the recipe that it starts from, ``logs/NAME.txt`` holds the output of its commands,
and ``results/NAME.json`` says how it ended. Optuna's storage, ``study.db`` or a database, is the queue: a
trial waits there until a worker takes it and sends heartbeats. Without heartbeats the trial goes to another
worker, which resumes its run. This module imports neither torch nor Optuna.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from ddim.errors import Locked, NoSpace, UserError, quote
from ddim.evaluation.record import read_evaluation
from ddim.experiments.space import (
    Choice,
    Trial,
    describe_choice,
    find_incomparable,
    parse_space,
    plan_trials,
    values_text,
)
from ddim.files import is_locked, lock_folder, make_folder, read_sealed, write_json, write_sealed
from ddim.machine.progress import Progress, open_progress
from ddim.machine.signals import Stopped, stop_on_signals
from ddim.plots.table import Tabular
from ddim.runs.folder import RUN, check_outside, check_unused, make_run_folder
from ddim.runs.log import read_metrics

if TYPE_CHECKING:
    from ddim.experiments.trial_queue import TrialQueue

SWEEP = "sweep.json"
"""The file that marks a folder as a sweep."""
SCHEMA = 2
"""The version of the layout of ``sweep.json``."""
POLL = 0.2
"""Seconds between two looks at a child process or the queue."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        exit_code: exit code of its last command; 0 means success.
        message: the last line that this command printed.
        seconds: time that the last worker spent on the trial.
        value: the KID or, in a sweep without evaluations, the error on validation images.
        fields: the values of the varied fields.
    """

    exit_code: int
    message: str
    seconds: float
    value: float | None = None
    fields: Choice | None = None

    @property
    def failed(self) -> bool:
        """Whether a command of the trial ended with an error."""
        return self.exit_code != 0


@dataclass(frozen=True, repr=False)
class Sweep(Tabular):
    """A sweep; as text, the table of its trials and how they ended.

    Attributes:
        folder: the folder of the sweep.
        request: the arguments of `sweep` that chose the trials.
        storage: address of Optuna's storage without a password; None for ``study.db`` in the folder.
        study: name of the study in the storage.
        base: the recipe that all trials share, as JSON.
        trials: the planned trials.
    """

    folder: Path
    request: dict[str, Any]
    storage: str | None
    study: str
    base: dict[str, Any]
    trials: list[Trial]

    def run_folder(self, trial: Trial) -> Path:
        """Return the run folder of a trial."""
        return self.folder / "trials" / trial.name

    def recipe_file(self, trial: Trial) -> Path:
        """Return the file of the recipe that a trial starts from."""
        return self.folder / "recipes" / f"{trial.name}.json"

    def log_file(self, trial: Trial) -> Path:
        """Return the file with the output of a trial's commands."""
        return self.folder / "logs" / f"{trial.name}.txt"

    def outcome_file(self, trial: Trial) -> Path:
        """Return the file of a trial's `Outcome`, which exists once the trial has ended."""
        return self.folder / "results" / f"{trial.name}.json"

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """How each trial ended, for those that have."""
        found = {trial.name: read_outcome(self.outcome_file(trial)) for trial in self.trials}
        return {name: outcome for name, outcome in found.items() if outcome}

    def unfinished(self) -> list[Trial]:
        """Return the trials that have not ended."""
        return [trial for trial in self.trials if not self.outcome_file(trial).exists()]

    @property
    def metric(self) -> str:
        """The name of the number that a search minimises."""
        return "kid" if "evaluate" in self.request else "image_mae"

    def read_value(self, trial: Trial) -> float | None:
        """Return the number that a search minimises, from the run folder of a trained trial."""
        if "evaluate" in self.request:
            return read_evaluation(self.run_folder(trial)).value(self.metric)
        errors = [line.get(self.metric) for line in read_metrics(self.run_folder(trial))]
        return next((error for error in reversed(errors) if error is not None), None)

    @property
    def exit_code(self) -> int:
        """The exit code of the command: 1 if a trial failed, else 0."""
        return int(any(outcome.failed for outcome in self.outcomes.values()))

    @property
    def verdict(self) -> str:
        """How many trials have finished and failed, and which values have the lowest error."""
        outcomes, values = self.outcomes.values(), dict[str, list[float]]()
        failed = sum(outcome.failed for outcome in outcomes)
        said = f"{len(outcomes) - failed} of {len(self.trials)} trials are finished"
        said += f", {failed} failed" if failed else ""
        for outcome in outcomes:
            if outcome.value is not None:
                values.setdefault(describe_choice(outcome.fields or {}), []).append(outcome.value)
        if len(values) < 2 or find_incomparable(self.request):
            return said
        best = min(values, key=lambda name: mean(values[name]))
        seeds = f", mean of {len(values[best])} seeds" if len(values[best]) > 1 else ""
        return f"{said}; the lowest {self.metric} has {best} ({mean(values[best]):.4g}{seeds})"

    @property
    def title(self) -> str:
        return str(self.folder)

    @property
    def notes(self) -> list[str]:
        """What the numbers mean, and how to go on."""
        hidden = find_incomparable(self.request)
        note = f"{self.metric} is not comparable between trials with different {hidden}" if hidden else ""
        note = note or "a difference that is smaller than the spread over seeds may be chance"
        return [f"note: {note}", f"next: ddim report {quote(self.folder)}"]

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dictionary for each trial: its name, its values, and how it ended."""
        rows, outcomes = [], self.outcomes
        for trial in self.trials:
            outcome, row = outcomes.get(trial.name), {"trial": trial.name, **(trial.fields or {})}
            if outcome is None:
                row["state"] = "unfinished"
            elif outcome.failed:
                row |= {**(outcome.fields or {}), "state": "failed", "message": outcome.message}
            else:
                row |= {**(outcome.fields or {}), "state": "finished", self.metric: outcome.value}
            rows.append(row)
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return the verdict, the folder and the outcome of each trial as plain values."""
        ended = {name: asdict(outcome) for name, outcome in self.outcomes.items()}
        trials = {trial.name: ended.get(trial.name) for trial in self.trials}
        return {"verdict": self.verdict, "folder": self.folder, "trials": trials}


def sweep(  # noqa: PLR0913 (the choices of a notebook)
    data: str | Path | None = None,
    *,
    fields: Mapping[str, Any] | None = None,
    recipe: str | Path | None = None,
    repeats: int = 1,
    random: int | None = None,
    search: int | None = None,
    images: int | None = None,
    minutes: float | None = None,
    evaluate: int | None = None,
    jobs: int = 1,
    threads: int | None = None,
    out: str | Path | None = None,
    storage: str | None = None,
    progress: bool | Progress = True,
) -> Sweep:
    """Train many runs that differ in fields of their recipe.

    Each combination of values is a trial: `--schedule cosine,linear --net.widths [16,32],[32,64]` are four.
    A range such as `--optim.lr 1e-4..1e-2`, or `16..128` for whole numbers, needs random or search.

    If a trial fails, the others go on; remove its file in results/ to run it again. After Ctrl-C, give only
    out to go on; do so in other terminals too, or on machines that share the folder and the storage, to
    share the work. If a worker dies, another one resumes its trial after a minute.

    Args:
        data: the images (default: those of the recipe).
        fields: values to try, such as 1e-3,3e-4; in Python {"optim.lr": [1e-3, 3e-4]}.
        recipe: name or file of the recipe that all trials share (default: fast).
        repeats: number of seeds for each combination.
        random: number of combinations to draw, in place of all.
        search: number of trials whose values Optuna proposes from the errors of other trials.
        images: training length of each run in images.
        minutes: training time of each run.
        evaluate: number of samples to measure each run by its KID, in place of its validation error.
        jobs: number of trials to train at once.
        out: a new folder, or a sweep to work on (default: runs/DATA-RECIPE-sweep-N).
        progress: as in `train`.

    Other Parameters:
        threads: processor threads of each trial (default: several jobs share the cores).
        storage: address of a database, postgresql+psycopg://user@host/database (default: a file in out).

    Raises:
        UserError: if a field, a combination or the storage cannot be used, or `out` holds another sweep.
        Stopped: after a signal, when the runs have been saved.

    Commands:
        ddim sweep photos/ --objective.error l1,mse --repeats 3 --images 100000
        ddim sweep photos/ --optim.lr 1e-4..1e-2 --search 30 --minutes 10 --evaluate 1000
    """
    given = {"data": data and str(data), "recipe": recipe and str(recipe), "random": random}
    given |= {"search": search, "images": images, "minutes": minutes, "evaluate": evaluate}
    given |= {"repeats": repeats if repeats > 1 else None, "fields": fields or {}}
    return _run_sweep(given, out and Path(out), storage, (jobs, threads), progress)


def _run_sweep(
    given: dict[str, Any],
    out: Path | None,
    storage: str | None,
    machine: tuple[int, int | None],
    progress: bool | Progress,
) -> Sweep:
    """Create or join a sweep, work on it until its end, and return it; see `sweep`."""
    request = {name: value for name, value in given.items() if value is not None}
    request["fields"] = {name: values_text(values) for name, values in given["fields"].items()}
    try:
        from ddim.experiments.trial_queue import TrialQueue, explain_database
    except ImportError as error:
        raise UserError(f'a sweep needs another package: pip install "ddim[sweep]" ({error})') from None
    with explain_database(), open_progress(progress) as show:
        planned = _open_sweep(request, out, storage)
        queue = TrialQueue(planned.folder, planned.study, storage or planned.storage)
        _Worker(planned, queue, *machine).train(show)
    return planned


# The folder


def list_trials(folder: Path) -> list[Trial]:
    """Return the planned trials of the sweep in a folder; none if another program wrote its sweep.json.

    Raises:
        UserError: if sweep.json is damaged.
    """
    document = read_sealed(folder / SWEEP)
    if document.get("kind") != "sweep":
        return []
    try:
        trials = [Trial(each["name"], each.get("fields"), each["recipe"]) for each in document["trials"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / SWEEP} is damaged: {type(error).__name__} {error}") from None
    for trial in trials:
        # A sweep from somebody else must not lead to files outside of its folder.
        if Path(trial.name).name != trial.name:
            raise UserError(f"{folder / SWEEP} is damaged: {trial.name!r} is not the name of a folder")
    return trials


def read_sweep(folder: str | Path) -> Sweep:
    """Return the sweep in a folder.

    Raises:
        UserError: if the folder has no sweep, or its sweep.json is damaged or of another version.
    """
    folder = Path(folder)
    document = read_sealed(folder / SWEEP)
    if document.get("schema") != SCHEMA:
        raise UserError(f"{folder / SWEEP} is not the plan of a sweep of this version")
    parts = {name: document[name] for name in ("request", "storage", "study", "base")}
    return Sweep(folder=folder, trials=list_trials(folder), **parts)


def read_outcome(file: Path) -> Outcome | None:
    """Return the outcome in a file, or None if the file does not exist.

    Raises:
        UserError: if the file is damaged.
    """
    return Outcome(**read_sealed(file)) if file.exists() else None


def _open_sweep(request: dict[str, Any], out: Path | None, storage: str | None) -> Sweep:
    """Return the sweep in the folder `out`; create and plan it if there is none."""
    if out is None or not (out / SWEEP).exists():
        from ddim.experiments.trial_queue import check_storage
        from ddim.recipe.codec import dump

        base, trials = plan_trials(request)
        address = storage and check_storage(storage)
        data, recipe = request.get("data", "blossoms"), Path(request.get("recipe", "fast")).stem
        check_outside(out or Path("runs"), data)
        out = out or make_run_folder(None, data, f"{recipe}-sweep")
        make_folder(out)
        # Another worker may create the sweep at the same moment.
        with lock_folder(out, wait=60):
            if not (out / SWEEP).exists():
                check_unused(out)
                # The name has a random part, because other sweeps may use the same database.
                study = f"{out.name}-{uuid.uuid4().hex[:12]}"
                plan = {"request": request, "storage": address, "study": study, "base": dump(base)}
                plan["trials"] = [asdict(trial) for trial in trials]
                write_sealed(out / SWEEP, {"schema": SCHEMA, "kind": "sweep", **plan})
    planned = read_sweep(out)
    if request not in ({"fields": {}}, planned.request):
        raise UserError(f"{out} is a sweep of {planned.request}: give only out to join it, or another folder")
    return planned


# The worker


def trial_commands(sweep: Sweep, trial: Trial, jobs: int, threads: int | None) -> list[list[str]]:
    """Return the commands of a trial: train, and evaluate if the sweep asks for it."""
    ddim, run = [sys.executable, "-m", "ddim"], sweep.run_folder(trial)
    train = [*ddim, "train", "--recipe", str(sweep.recipe_file(trial)), "--out", str(run), "--resume"]
    if trial.recipe is None:
        train += [f"--{name}={value}" for name, value in (trial.fields or {}).items()]
    # A run keeps the number of threads with which it started.
    if (jobs > 1 or threads) and not (run / RUN).exists():
        from ddim.machine.runtime import count_allowed

        train += ["--threads", str(threads or max(1, count_allowed() // jobs))]
    if "evaluate" not in sweep.request:
        return [train]
    # A trial whose guidance was searched is still compared with the others.
    evaluate = [*ddim, "evaluate", str(run), "-n", str(sweep.request["evaluate"]), "--guidance", "1"]
    if (trial.recipe or sweep.base)["data"]["labels"] is True:
        # The real images are of all classes. For clusters and vectors, samples are so by default.
        evaluate += ["--label", "all"]
    return [train, evaluate]


@dataclass
class _Worker:
    """Trains trials, `jobs` at a time, each with a number of processor threads; None for the usual one."""

    sweep: Sweep
    queue: TrialQueue
    jobs: int
    threads: int | None
    stop: threading.Event = field(default_factory=threading.Event)

    def train(self, show: Progress) -> None:
        """Train trials until all trials of the sweep have ended, here or in other workers."""
        folder, total = self.sweep.folder, len(self.sweep.trials)
        for name in ("trials", "recipes", "logs", "results"):
            make_folder(folder / name)
        with stop_on_signals(), ThreadPoolExecutor(self.jobs) as pool:
            try:
                working = {pool.submit(self.work) for _ in range(self.jobs)}
                while working:
                    show(f"trials of {folder}", total - len(self.sweep.unfinished()), total)
                    ended, working = wait(working, 1.0, FIRST_COMPLETED)
                    for job in ended:
                        job.result()
            except Stopped as stopped:
                resume = f"stopped; `ddim sweep --out {quote(folder)}` resumes it"
                raise Stopped(stopped.number, resume) from None
            finally:
                self.stop.set()  # the commands save and end

    def work(self) -> None:
        """Train one trial after another until all have ended, or `stop` is set."""
        due = 0.0
        while (left := self.sweep.unfinished()) and not self.stop.is_set():
            if time.monotonic() > due:
                self.queue.refill({trial.name: trial.fields or {} for trial in left})
                due = time.monotonic() + self.queue.interval
            if taken := self.queue.take():
                value = None
                try:
                    value = self._run_trial(*taken)
                finally:
                    self.queue.end(taken[0], value)
            else:
                self.stop.wait(POLL)

    def _run_trial(self, key: int, name: str) -> float | None:
        """Run the commands of a trial, write its outcome, and return the number that a search minimises.

        There is no outcome if `stop` was set, or the trial was given to another worker.
        """
        sweep, began = self.sweep, time.monotonic()
        trial = next(trial for trial in sweep.trials if trial.name == name)
        if trial.recipe is None:
            choice = self.queue.propose(key, parse_space(sweep.request["fields"]), int(name))
            trial = replace(trial, fields=choice)
        write_json(sweep.recipe_file(trial), trial.recipe or sweep.base)
        code: int | None = 0
        for command in trial_commands(sweep, trial, self.jobs, self.threads):
            if code == 0:
                code = self._run_command(command, key, trial)
        if code is None:
            return None
        lines = sweep.log_file(trial).read_text(errors="replace").split("\n")
        message = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if code == NoSpace.exit_code:
            raise NoSpace(message)  # every further trial would fail
        value = None if code else sweep.read_value(trial)
        outcome = Outcome(code, message, round(time.monotonic() - began, 1), value, trial.fields)
        write_sealed(sweep.outcome_file(trial), asdict(outcome))
        return value

    def _run_command(self, command: list[str], key: int, trial: Trial) -> int | None:
        """Run a command and return its exit code; None if it was ended, see `_run_trial`."""
        child, due = None, 0.0
        try:
            while not self.stop.is_set():
                if time.monotonic() > due:
                    due = time.monotonic() + self.queue.interval
                    if not self.queue.beat(key):
                        break
                # The child of a dead worker may still train in the run folder.
                if child is None and not is_locked(self.sweep.run_folder(trial)):
                    child = _start(command, self.sweep.log_file(trial))
                code = child.poll() if child else None
                if code == Locked.exit_code:
                    child = None  # such a child had not locked the folder yet
                elif code is not None:
                    return code
                time.sleep(POLL)
        finally:
            if child:
                child.terminate()
                child.wait()
        return None


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command whose output is added to a file."""
    with log.open("ab") as file:
        file.write(f"$ {quote(*command)}\n".encode())
        file.flush()
        # In a session of its own, the child does not receive Ctrl-C; the worker ends it.
        streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, start_new_session=True, **streams)
