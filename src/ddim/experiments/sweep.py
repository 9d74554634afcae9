"""Train the trials of a sweep with any number of workers.

A sweep is a folder. ``sweep.json`` holds the plan, ``trials/NAME`` is the run folder of a trial,
``recipes/NAME.json`` is the recipe that it starts from, ``logs/NAME.txt`` holds the output of its commands,
and ``results/NAME.json`` says how it ended. Optuna's storage, ``study.db`` or a database, is the queue: a
trial waits there until a worker takes it and sends heartbeats. Without heartbeats the trial goes to another
worker, which resumes its run.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Generator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from ddim.errors import Locked, NoSpace, UserError, quote
from ddim.experiments.index import RunTable, list_runs, read_run, run_values
from ddim.experiments.trials import (
    SWEEP,
    Choice,
    Outcome,
    Range,
    Sweep,
    Trial,
    find_incomparable,
    parse_space,
    plan_trials,
    read_sweep,
    values_text,
)
from ddim.files import is_locked, lock_folder, make_folder, write_json, write_sealed
from ddim.machine.progress import Progress, open_progress
from ddim.machine.runtime import count_allowed
from ddim.machine.signals import Stopped, stop_on_signals
from ddim.recipe.codec import dump
from ddim.runs.folder import RUN, check_outside, check_unused, make_run_folder

try:
    import optuna
    from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
    from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
    from optuna.trial import TrialState
    from sqlalchemy import NullPool, event, make_url
    from sqlalchemy.exc import SQLAlchemyError
except ImportError as error:
    raise UserError(f'a sweep needs another package: pip install "ddim[sweep]" ({error})') from None

GRACE = 60
"""Seconds without a heartbeat after which a worker counts as dead, by the clock of the database."""
POLL = 0.2
"""Seconds between two looks at a child process or the queue."""


@contextmanager
def _explain_database() -> Generator[None]:
    """Turn errors of the database into one sentence; hide that Optuna calls its heartbeat experimental."""
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        try:
            yield
        except (StorageInternalError, SQLAlchemyError, ImportError) as error:
            # Optuna wraps the error of SQLAlchemy or of the import of a driver.
            reason = " ".join(str(error.__cause__ or error).split())
            kind = NoSpace if "disk is full" in reason else UserError
            raise kind(f"the storage of the sweep failed: {reason}") from None


@contextmanager
def _survive_disconnection() -> Generator[None]:
    """Go on after the database has ended a connection, as it does if a worker freezes in a transaction."""
    try:
        yield
    except StorageInternalError as error:
        if not getattr(error.__cause__, "connection_invalidated", False):
            raise


@dataclass(frozen=True, repr=False)
class SweepTable(RunTable):
    """The trials of a sweep as a table of runs."""

    sweep: Sweep

    @property
    def folder(self) -> Path:
        """The folder of the sweep."""
        return self.sweep.folder

    @property
    def exit_code(self) -> int:
        """The exit code of the command: 1 if a trial failed, else 0."""
        return int(any(run.state == "failed" for run in self.runs))

    @property
    def verdict(self) -> str:
        """How many trials have finished and failed, and which values are best on average over seeds."""
        states, metric = [run.state for run in self.runs], self.sweep.metric
        finished, failed = states.count("finished"), states.count("failed")
        said = f"{finished} of {len(states)} trials are finished, {failed} failed"
        if name := find_incomparable(self.sweep.request):
            return f"{said}; {metric} is not comparable between trials with different {name}"
        scores: dict[str, list[float]] = {}
        for values in map(run_values, self.runs):
            if values["state"] == "finished" and values.get(metric) is not None:
                words = (f"{name} {values.get(name)}" for name in self.sweep.request["fields"])
                scores.setdefault(", ".join(words), []).append(values[metric])
        if len(scores) < 2:
            return said
        best = min(scores, key=lambda words: mean(scores[words]))
        return f"{said}; the best is {best}, with {metric} {mean(scores[best]):.4g}"

    def to_json(self) -> dict[str, Any]:  # pyrefly: ignore[bad-override]
        """Return the folder, the verdict and the trials as plain values."""
        return {"folder": self.folder, "verdict": self.verdict, "trials": self.to_records()}

    def __str__(self) -> str:
        return f"{self!r}\nnext: ddim report {quote(self.folder)}"


@_explain_database()
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
) -> SweepTable:
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
    request: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    request |= {"repeats": repeats} if repeats > 1 else {}
    request["fields"] = {name: values_text(values) for name, values in (fields or {}).items()}
    planned = read_sweep(_make_sweep(request, Path(out) if out else None, storage))
    if request not in ({"fields": {}}, planned.request):
        raise UserError(f"{planned.folder} is a sweep of {planned.request}: give only out, or another folder")
    with open_progress(progress) as show:
        _Worker(planned, storage, jobs, threads).train(show)
    return SweepTable(list_runs(planned.folder).runs, planned.folder, planned)


def _make_sweep(request: dict[str, Any], out: Path | None, storage: str | None) -> Path:
    """Return the folder of a sweep; plan the sweep and enqueue its trials if there is none in `out`."""
    if out and (out / SWEEP).exists():
        return out
    (base, trials), data = plan_trials(request), request.get("data", "blossoms")
    if storage:
        _open_storage(storage)  # an error before there is a folder
    check_outside(out or Path("runs"), data)
    out = out or make_run_folder(None, data, f"{Path(request.get('recipe', 'fast')).stem}-sweep")
    make_folder(out)
    # Another worker may make the sweep at the same moment.
    with lock_folder(out, wait=-1):
        if not (out / SWEEP).exists():
            check_unused(out)
            # The name has a random part, because other sweeps may use the same database.
            study = f"{out.name}-{uuid.uuid4().hex[:12]}"
            queue = optuna.create_study(study_name=study, storage=_open_storage(storage or _address(out)))
            for trial in trials:
                queue.enqueue_trial({}, user_attrs={"name": trial.name, "fields": trial.fields or {}})
            address = storage and make_url(storage)._replace(password=None).render_as_string(False)
            plan = {"request": request, "storage": address, "study": study, "base": dump(base)}
            plan["trials"] = [asdict(trial) for trial in trials]
            write_sealed(out / SWEEP, {"kind": "sweep", **plan})
    return out


def _address(folder: Path) -> str:
    """Return the address of the SQLite file in the folder of a sweep; Optuna formats it with str.format."""
    return f"sqlite:///{(folder / 'study.db').absolute()}".replace("{", "{{").replace("}", "}}")


def _open_storage(address: str) -> RDBStorage:
    """Return Optuna's storage at an address; a transaction is atomic, and ends if its worker freezes."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kind = make_url(address).get_backend_name()
    frozen = {"options": f"-c idle_in_transaction_session_timeout={GRACE}s"}
    arguments = {"sqlite": {"timeout": GRACE}, "postgresql": frozen}.get(kind, {})
    options = {"poolclass": NullPool, "connect_args": arguments}  # no connection stays open
    storage = RDBStorage(address, options, heartbeat_interval=GRACE // 10 or 1, grace_period=GRACE)
    if kind == "sqlite":
        # Python's driver begins a transaction at the first write. Another worker could change what was read.
        event.listen(storage.engine, "connect", lambda link, _: setattr(link, "isolation_level", None))
        event.listen(storage.engine, "begin", lambda link: link.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage


def trial_commands(sweep: Sweep, trial: Trial, jobs: int, threads: int | None) -> list[list[str]]:
    """Return the commands of a trial: train, and evaluate if the sweep asks for it."""
    ddim, run, fields = [sys.executable, "-m", "ddim"], sweep.run_folder(trial), trial.fields or {}
    recipe = sweep.folder / "recipes" / f"{trial.name}.json"
    train = [*ddim, "train", "--recipe", str(recipe), "--out", str(run), "--resume"]
    if trial.recipe is None:
        train += [f"--{name}={value}" for name, value in fields.items()]
    # A run keeps the number of threads with which it started.
    if (jobs > 1 or threads) and not (run / RUN).exists():
        train += ["--threads", str(threads or max(1, count_allowed() // jobs))]
    if "evaluate" not in sweep.request:
        return [train]
    # A trial whose guidance was searched is still compared with the others.
    evaluate = [*ddim, "evaluate", str(run), "-n", str(sweep.request["evaluate"]), "--guidance", "1"]
    # The real images are of all classes. For clusters and vectors, samples are so by default.
    labels = fields.get("data.labels", (trial.recipe or sweep.base)["data"]["labels"])
    labelled = labels in (True, "true", "yes")
    return [train, [*evaluate, "--label", "all"] if labelled else evaluate]


class _Worker:
    """Trains trials, `jobs` at a time, each with a number of processor threads; None for the usual one."""

    def __init__(self, sweep: Sweep, storage: str | None, jobs: int, threads: int | None) -> None:
        self.sweep, self.jobs, self.threads = sweep, jobs, threads
        self.trials = {trial.name: trial for trial in sweep.trials}
        self.storage = _open_storage(storage or sweep.storage or _address(sweep.folder))
        self.study = optuna.load_study(study_name=sweep.study, storage=self.storage)
        self.key = self.storage.get_study_id_from_name(sweep.study)
        self.stop, self.interval = threading.Event(), max(1, GRACE // 10)
        for name in ("trials", "recipes", "logs", "results"):
            make_folder(sweep.folder / name)

    def train(self, show: Progress) -> None:
        """Train trials until all trials of the sweep have ended, here or in other workers."""
        folder, total = self.sweep.folder, len(self.trials)
        with stop_on_signals(), ThreadPoolExecutor(self.jobs) as pool:
            try:
                working = {pool.submit(self._work) for _ in range(self.jobs)}
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

    def _work(self) -> None:
        """Train one trial after another until all have ended, or `stop` is set."""
        due = 0.0
        while (left := self.sweep.unfinished()) and not self.stop.is_set():
            with _survive_disconnection():
                if time.monotonic() > due:
                    self._refill(left)
                    due = time.monotonic() + self.interval
                if taken := self._take():
                    self._finish(*taken)
                else:
                    self.stop.wait(POLL)

    def _finish(self, key: int, trial: Trial) -> None:
        """Run a trial, and tell the storage how it ended."""
        value = None
        try:
            value = self._run_trial(key, trial)
        finally:
            state, values = (TrialState.FAIL, None) if value is None else (TrialState.COMPLETE, [value])
            with suppress(UpdateFinishedTrialError):  # it was given to another worker
                self.storage.set_trial_state_values(key, state, values)

    def _refill(self, left: list[Trial]) -> None:
        """Enqueue again those of these trials that nobody has: their worker died or was stopped."""
        with suppress(Locked), lock_folder(self.sweep.folder, wait=0):
            fail_stale_trials(self.study)
            last = {attempt.user_attrs["name"]: attempt for attempt in self.study.get_trials()}
            for trial in left:
                if last[trial.name].state.is_finished():
                    # The next attempt has the values that were proposed for the last one.
                    RetryHeartbeatStaleTrialCallback()(self.study, last[trial.name])

    def _take(self) -> tuple[int, Trial] | None:
        """Take the first waiting trial; return its key in the storage and its plan, or None."""
        for waiting in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            key = self.storage.get_trial_id_from_study_id_trial_number(self.key, waiting.number)
            # The heartbeat comes first: without any, the trial of a dead worker would never be given away.
            self.storage.record_heartbeat(key)
            with suppress(UpdateFinishedTrialError):
                if self.storage.set_trial_state_values(key, TrialState.RUNNING):
                    return key, self.trials[waiting.user_attrs["name"]]
        return None

    def _propose(self, key: int, trial: Trial) -> Choice:
        """Return the values that Optuna proposes for a trial, the same again if the trial is resumed."""
        # Trials that are proposed at the same moment need different seeds.
        sampler = optuna.samplers.TPESampler(seed=int(trial.name))
        study = optuna.load_study(study_name=self.sweep.study, storage=self.storage, sampler=sampler)
        asked, choice = optuna.Trial(study, key), {}
        for name, each in parse_space(self.sweep.request["fields"]).items():
            if isinstance(each, Range):
                suggest: Any = asked.suggest_int if each.whole else asked.suggest_float
                choice[name] = each.text(suggest(name, each.low, each.high, log=each.log))
            else:
                choice[name] = asked.suggest_categorical(name, each)
        return choice

    def _run_trial(self, key: int, trial: Trial) -> float | None:
        """Run the commands of a trial, write its outcome, and return the number that a search minimises.

        There is no outcome if `stop` was set, or the trial was given to another worker.
        """
        folder, run = self.sweep.folder, self.sweep.run_folder(trial)
        trial = trial if trial.fields is not None else replace(trial, fields=self._propose(key, trial))
        write_json(folder / "recipes" / f"{trial.name}.json", trial.recipe or self.sweep.base)
        log, code = folder / "logs" / f"{trial.name}.txt", 0
        for command in trial_commands(self.sweep, trial, self.jobs, self.threads):
            if code == 0:
                code = self._run_command(command, key, run, log)
        if code is None:
            return None
        *_, message = ["", *filter(None, map(str.strip, log.read_text(errors="replace").splitlines()))]
        if code == NoSpace.exit_code:
            raise NoSpace(message)  # every further trial would fail
        write_sealed(self.sweep.outcome_file(trial), asdict(Outcome(code, message)))
        return None if code else run_values(read_run(run)).get(self.sweep.metric)

    def _run_command(self, command: list[str], key: int, run: Path, log: Path) -> int | None:
        """Run a command and return its exit code; None if it was ended, see `_run_trial`."""
        child, due = None, 0.0
        try:
            while not self.stop.is_set():
                if time.monotonic() > due:
                    self.storage.record_heartbeat(key)
                    due = time.monotonic() + self.interval
                    if self.storage.get_trial(key).state != TrialState.RUNNING:
                        break  # this worker was frozen, and another one has the trial
                # The child of a dead worker may still train in the run folder.
                if child is None and not is_locked(run):
                    with log.open("ab") as file:
                        # In a session of its own, the child does not receive Ctrl-C; the worker ends it.
                        streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
                        child = subprocess.Popen(command, start_new_session=True, **streams)
                code = child.poll() if child else None
                if code == Locked.exit_code:
                    child = None  # the child of a dead worker had not locked the folder yet
                elif code is not None:
                    return code
                time.sleep(POLL)
        finally:
            if child:
                child.terminate()
                child.wait()
        return None
