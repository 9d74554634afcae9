"""Train the trials of a sweep with any number of workers.

A sweep is a folder. ``sweep.json`` holds the request, and ``trials/NAME`` is the run folder of a trial.
Beside it stand ``NAME.trial.json``, the recipe, ``NAME.txt``, the output of the commands, and at last
``NAME.outcome.json``. Optuna's storage, ``study.db`` or a database, is the queue: a trial waits there until
a worker takes it and sends heartbeats. Without heartbeats the trial goes to another worker, which resumes
its run.
"""

import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ddim.errors import Locked, NoSpace, UserError, explain_errors, quote
from ddim.experiments.index import OUTCOME, TRIAL, RunTable, beside, list_runs, name_runs, read_run
from ddim.experiments.report import describe_doubt, group_runs, rank_configurations
from ddim.files import is_locked, lock_folder, make_folder, read_sealed, write_json, write_sealed
from ddim.machine.progress import Progress, open_progress
from ddim.machine.runtime import count_allowed
from ddim.machine.signals import Stopped, stop_on_signals
from ddim.runs.folder import RUN, check_outside, check_unused, make_run_folder

with explain_errors("a sweep needs another package", 'pip install "ddim[sweep]"', ImportError):
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
    from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
    from optuna.trial import TrialState
    from sqlalchemy import NullPool, event, make_url
    from sqlalchemy.exc import SQLAlchemyError

    from ddim.experiments.trials import Choice, parse_space, plan_trials, value_text, values_text

SWEEP = "sweep.json"
"""The file that makes a folder a sweep."""
GRACE = 60
"""Seconds without a heartbeat after which a worker counts as dead, by the clock of the database."""
POLL = 0.2
"""Seconds between two looks at a child process or the queue."""
T = TypeVar("T")


@contextmanager
def _explain_database() -> Generator[None]:
    """Turn errors of the database into one sentence; hide what Optuna says besides."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        try:
            yield
        except (StorageInternalError, SQLAlchemyError, ImportError) as error:
            # Optuna wraps the error of SQLAlchemy or of the import of a driver.
            reason = " ".join(str(error.__cause__ or error).split())
            kind = NoSpace if "disk is full" in reason else UserError
            raise kind(f"the storage of the sweep failed: {reason}") from None


def _survive_disconnection(function: Callable[..., T], *args: object) -> T:
    """Call a function, and again if the database ended its connection: the worker froze in a transaction."""
    while True:
        try:
            return function(*args)
        except (StorageInternalError, SQLAlchemyError) as error:
            if not any(getattr(each, "connection_invalidated", False) for each in (error, error.__cause__)):
                raise


@dataclass(frozen=True, repr=False)
class SweepTable(RunTable):
    """The trials of a sweep as a table of runs, and the name of the number by which they are compared."""

    metric: str

    @property
    def exit_code(self) -> int:
        """The exit code of the command: 1 if a trial failed, else 0."""
        return int(any(run.state == "failed" for run in self.runs))

    @property
    def verdict(self) -> str:
        """How many trials have finished and failed, and which values are best on average over seeds."""
        states = [run.state for run in self.runs]
        finished, failed = states.count("finished"), states.count("failed")
        said = f"{finished} of {len(states)} trials are finished, {failed} failed"
        rows = group_runs(self.runs, name_runs(self.runs, self.folder))
        ranked = rank_configurations(rows, self.metric)
        if not ranked:
            return said
        words = ", ".join(f"{name} {value}" for name, value in ranked[0].choice.items())
        best = f"the best is {words}, with {self.metric} {ranked[0].describe(self.metric)}"
        return f"{said}; {best}{describe_doubt(ranked, self.metric)}"

    def to_json(self) -> dict[str, Any]:  # pyrefly: ignore[bad-override]
        """Return the folder, the verdict and the trials as plain values."""
        return {"folder": self.folder, "verdict": self.verdict, "trials": super().to_json()}

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
    out: str | Path | None = None,
    storage: str | None = None,
    progress: bool | Progress = True,
) -> SweepTable:
    """Train many runs that differ in fields of their recipe.

    Each combination of values is a trial: `--schedule cosine,linear --net.widths [16,32],[32,64]` are four.
    A range such as `--optim.lr 1e-4..1e-2`, or `16..128` for whole numbers, needs random or search.

    If a trial fails, the others go on; remove its .outcome.json to run it again. After Ctrl-C, give
    only out to go on; do so in other terminals too, or on machines that share the folder and the storage, to
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
        jobs: number of trials to train at once; they share the cores.
        out: a new folder, or a sweep to work on (default: runs/DATA-RECIPE-sweep-N).
        progress: as in `train`.

    Other Parameters:
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
    given |= {"repeats": repeats if repeats > 1 else None}
    request: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    request["fields"] = {name: values_text(values) for name, values in (fields or {}).items()}
    folder = _make_sweep(request, Path(out) if out else None, storage)
    worker = _Worker(folder, storage, jobs)
    if request not in ({"fields": {}}, worker.request):
        raise UserError(f"{folder} is a sweep of {worker.request}: give only out, or another folder")
    with open_progress(progress) as show:
        worker.train(show)
    return SweepTable(list_runs(folder).runs, folder, worker.metric)


def _make_sweep(request: dict[str, Any], out: Path | None, storage: str | None) -> Path:
    """Return the folder of a sweep; plan the sweep and enqueue its trials if there is none in `out`."""
    if out and (out / SWEEP).exists():
        return out
    if request == {"fields": {}} and out:
        raise UserError(f"{out} is no sweep: name the folder of one, or give fields with the values to try")
    trials, data = plan_trials(request), request.get("data", "blossoms")
    if storage:
        _open_storage(storage, Path())  # an error before there is a folder
    check_outside(out or Path("runs"), data)
    out = out or make_run_folder(None, data, f"{Path(request.get('recipe', 'fast')).stem}-sweep")
    make_folder(out)
    # Another worker may make the sweep at the same moment.
    with lock_folder(out, wait=-1):
        if not (out / SWEEP).exists():
            check_unused(out)
            # The name has a random part, because other sweeps may use the same database.
            study = f"{out.name}-{uuid.uuid4().hex[:12]}"
            queue = optuna.create_study(study_name=study, storage=_open_storage(storage, out))
            make_folder(out / "trials")
            for name, recipe in trials.items():
                write_json(beside(out / "trials" / name, TRIAL), recipe)
                queue.enqueue_trial({}, user_attrs={"name": name})
            address = storage and make_url(storage)._replace(password=None).render_as_string(False)
            write_sealed(out / SWEEP, {"request": request, "storage": address, "study": study})
    return out


def _open_storage(address: str | None, folder: Path) -> RDBStorage:
    """Return Optuna's storage at an address, by default in a SQLite file in the folder of the sweep.

    A transaction is atomic, and ends if its worker freezes.
    """
    # Optuna formats an address with str.format.
    file = str((folder / "study.db").absolute()).replace("{", "{{").replace("}", "}}")
    address = address or f"sqlite:///{file}"
    kind = make_url(address).get_backend_name()
    frozen = {"options": f"-c idle_in_transaction_session_timeout={GRACE}s"}
    # SQLite cannot end the transaction of a frozen worker: the others wait longer.
    arguments = {"sqlite": {"timeout": 10 * GRACE}, "postgresql": frozen}.get(kind, {})
    options = {"poolclass": NullPool, "connect_args": arguments}  # no connection stays open
    storage = RDBStorage(address, options, heartbeat_interval=GRACE // 10 or 1, grace_period=GRACE)
    if kind == "sqlite":
        # Python's driver begins a transaction at the first write. Another worker could change what was read.
        event.listen(storage.engine, "connect", lambda link, _: setattr(link, "isolation_level", None))
        event.listen(storage.engine, "begin", lambda link: link.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage


def _open_study(address: str | None, folder: Path, name: str) -> tuple[RDBStorage, optuna.Study]:
    """Return the storage of a sweep and the study in it."""
    storage = _open_storage(address, folder)
    return storage, optuna.load_study(study_name=name, storage=storage)


def trial_commands(trial: Path, request: Mapping[str, Any], values: Choice, jobs: int) -> list[list[str]]:
    """Return the commands of a trial: train, and evaluate if the sweep asks for it.

    Args:
        trial: the run folder of the trial.
        request: the arguments of `sweep` that chose the trials.
        values: the values that a search proposes, in place of those of the recipe.
        jobs: number of trials that are trained at once.
    """
    ddim = [sys.executable, "-m", "ddim"]
    train = [*ddim, "train", "--recipe", str(beside(trial, TRIAL)), "--out", str(trial), "--resume"]
    train += [f"--{name}={value}" for name, value in values.items()]
    # A run keeps the number of threads with which it started.
    if jobs > 1 and not (trial / RUN).exists():
        train += ["--threads", str(max(1, count_allowed() // jobs))]
    if "evaluate" not in request:
        return [train]
    evaluate = [*ddim, "evaluate", str(trial), "-n", str(request["evaluate"])]
    # The real images are of all classes. For clusters and vectors, samples are so by default.
    if read_sealed(beside(trial, TRIAL))["data"]["labels"] is True:
        evaluate += ["--label", "all"]
    return [train, evaluate]


class _Worker:
    """Trains the trials of a sweep, `jobs` at a time."""

    def __init__(self, folder: Path, storage: str | None, jobs: int) -> None:
        plan = read_sealed(folder / SWEEP)
        self.folder, self.request, self.jobs = folder, plan["request"], jobs
        self.metric = "kid" if "evaluate" in self.request else "image_mae"
        place = storage or plan["storage"], folder, plan["study"]
        self.storage, self.study = _survive_disconnection(_open_study, *place)
        self.stop = threading.Event()
        self.trials = [Path(str(file).removesuffix(TRIAL)) for file in folder.glob(f"trials/*{TRIAL}")]

    def unfinished(self) -> list[Path]:
        """Return the trials that have not ended."""
        return [trial for trial in self.trials if not beside(trial, OUTCOME).exists()]

    def train(self, show: Progress) -> None:
        """Train trials until all trials of the sweep have ended, here or in other workers."""
        total = len(self.trials)
        with stop_on_signals(), ThreadPoolExecutor(self.jobs) as pool:
            try:
                working = {pool.submit(_survive_disconnection, self._work) for _ in range(self.jobs)}
                while working:
                    show(f"trials of {self.folder}", total - len(self.unfinished()), total)
                    ended, working = wait(working, 1.0, FIRST_COMPLETED)
                    for job in ended:
                        job.result()
            except Stopped as stopped:
                how = f"stopped; a sweep with out {quote(self.folder)} and nothing else resumes it"
                raise Stopped(stopped.number, how) from None
            finally:
                self.stop.set()  # the commands save and end

    def _work(self) -> None:
        """Train one trial after another until all have ended, or `stop` is set."""
        while self.unfinished() and not self.stop.is_set():
            if taken := self._take():
                self._run_trial(*taken)
            else:
                self._refill()
                self.stop.wait(5 * POLL)

    def _take(self) -> tuple[int, Path] | None:
        """Take the first waiting trial; return its key in the storage and the trial, or None."""
        study = self.storage.get_study_id_from_name(self.study.study_name)
        for waiting in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            key = self.storage.get_trial_id_from_study_id_trial_number(study, waiting.number)
            # The heartbeat comes first: without any, the trial of a dead worker would never be given away.
            self.storage.record_heartbeat(key)
            with suppress(UpdateFinishedTrialError):
                if self.storage.set_trial_state_values(key, TrialState.RUNNING):
                    return key, self.folder / "trials" / waiting.user_attrs["name"]
        return None

    def _refill(self) -> None:
        """Enqueue again the trials that nobody has: their worker died or was stopped."""
        with suppress(Locked), lock_folder(self.folder, wait=0):
            fail_stale_trials(self.study)
            last = {attempt.user_attrs["name"]: attempt for attempt in self.study.get_trials()}
            # A worker writes the outcome before it ends the attempt, so outcomes are read after attempts.
            for trial in self.unfinished():
                if last[trial.name].state.is_finished():
                    # The next attempt has the values that were proposed for the last one.
                    RetryHeartbeatStaleTrialCallback()(self.study, last[trial.name])

    def _propose(self, key: int, trial: Path) -> Choice:
        """Return the values that Optuna proposes for a trial, the same again if the trial is resumed."""
        # Trials that are proposed at the same moment need different seeds.
        sampler = optuna.samplers.TPESampler(seed=int(trial.name))
        study = optuna.load_study(study_name=self.study.study_name, storage=self.storage, sampler=sampler)
        asked, choice = optuna.Trial(study, key), {}
        kinds = {CategoricalDistribution: "categorical", IntDistribution: "int", FloatDistribution: "float"}
        for name, each in parse_space(self.request["fields"]).items():
            # The recipe has the images, as an absolute path.
            if not (name.startswith("data.") and each.single()):
                suggest = getattr(asked, f"suggest_{kinds[type(each)]}")
                choice[name] = value_text(suggest(name, **vars(each)))
        return choice

    def _run_trial(self, key: int, trial: Path) -> None:
        """Run the commands of a trial, write its outcome, and tell the storage how it ended.

        There is no outcome if `stop` was set, or the trial was given to another worker.
        """
        value, code, output = None, 0, beside(trial, ".txt")
        try:
            values = self._propose(key, trial) if "search" in self.request else {}
            for command in trial_commands(trial, self.request, values, self.jobs):
                code = self._run_command(command, key, trial, output)
                if code != 0:
                    break
            if code is None:
                return
            *_, message = ["", *output.read_text(errors="replace").strip().splitlines()]
            if code == NoSpace.exit_code:
                raise NoSpace(message)  # every further trial would fail
            write_sealed(beside(trial, OUTCOME), {"exit_code": code, "message": message})
            run = read_run(trial)
            value = None if code else {**run.errors, **run.metrics}.get(self.metric)
        finally:
            state = TrialState.FAIL if value is None else TrialState.COMPLETE
            with suppress(UpdateFinishedTrialError):  # it was given to another worker
                self.storage.set_trial_state_values(key, state, None if value is None else [value])

    def _run_command(self, command: list[str], key: int, run: Path, output: Path) -> int | None:
        """Run a command and return its exit code; None if it was ended, see `_run_trial`."""
        child, due = None, 0.0
        try:
            while not self.stop.is_set():
                if time.monotonic() > due:
                    self.storage.record_heartbeat(key)
                    due = time.monotonic() + max(1, GRACE // 10)
                    if self.storage.get_trial(key).state != TrialState.RUNNING:
                        break  # this worker was frozen, and another one has the trial
                # The child of a dead worker may still train in the run folder.
                if child is None and not is_locked(run):
                    with output.open("ab") as file:
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
