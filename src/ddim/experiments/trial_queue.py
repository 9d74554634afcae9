"""The queue of the trials of a sweep: Optuna's storage, a SQLite file or a database.

A trial waits in the queue until a worker takes it. The worker then sends heartbeats. If none arrives for the
grace period, by the clock of the database, the worker counts as dead, and its trial is enqueued again.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import TrialState
from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import SQLAlchemyError

from ddim.errors import Locked, NoSpace, UserError
from ddim.experiments.space import Choice, Range, Space
from ddim.files import lock_folder

GRACE = 60
"""Seconds without a heartbeat after which a worker counts as dead."""


@contextmanager
def explain_database() -> Generator[None]:
    """Turn errors of the database in the block into one sentence.

    Raises:
        NoSpace: if the disk is full.
        UserError: for any other error.
    """
    # Optuna calls its heartbeat experimental.
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        try:
            yield
        except (StorageInternalError, SQLAlchemyError, ImportError) as error:
            # Optuna wraps the error of SQLAlchemy, which wraps that of the driver.
            cause = error.__cause__ or error
            reason = " ".join(str(getattr(cause, "orig", None) or cause).split())
            if "disk is full" in reason:
                raise NoSpace("the disk of the storage is full: make room, then join the sweep") from None
            raise UserError(f"the storage of the sweep cannot be used: {reason}") from None


def open_storage(address: str) -> RDBStorage:
    """Return Optuna's storage at an address; a transaction is atomic, and ends if its worker freezes."""
    kind, options = make_url(address).get_backend_name(), dict[str, Any]()
    if kind == "sqlite":
        options = {"connect_args": {"timeout": GRACE}}
    elif kind == "postgresql":
        frozen = f"-c idle_in_transaction_session_timeout={GRACE}s"
        options = {"pool_pre_ping": True, "connect_args": {"options": frozen}}
    storage = RDBStorage(address, options, heartbeat_interval=max(1, GRACE // 10), grace_period=GRACE)
    if kind == "sqlite":
        # Python's driver begins a transaction at the first write. Another worker could change what was read.
        event.listen(storage.engine, "connect", lambda link, _: setattr(link, "isolation_level", None))
        event.listen(storage.engine, "begin", lambda link: link.exec_driver_sql("BEGIN IMMEDIATE"))
        storage.engine.dispose()  # of connections without these listeners
    return storage


def check_storage(address: str) -> str:
    """Return the address of a storage without its password, after opening it once."""
    url = make_url(address)
    open_storage(address)
    return url._replace(password=None).render_as_string(hide_password=False)


class TrialQueue:
    """The queue of a sweep, as one worker uses it.

    Args:
        folder: the folder of the sweep.
        study: the name of the sweep in its storage.
        address: the address of the storage; None for ``study.db`` in the folder.
    """

    def __init__(self, folder: Path, study: str, address: str | None) -> None:
        file = URL.create("sqlite", database=str((folder / "study.db").absolute())).render_as_string()
        # Optuna formats addresses with str.format.
        address = address or file.replace("{", "{{").replace("}", "}}")
        self.folder, self.name = folder, study
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # Workers that begin at the same moment would create the same tables.
        with lock_folder(folder, wait=GRACE):
            self.storage = open_storage(address)
            self.study = optuna.create_study(study_name=study, storage=self.storage, load_if_exists=True)
        self.key = self.storage.get_study_id_from_name(study)
        self.interval = max(1, GRACE // 10)

    def refill(self, trials: Mapping[str, Mapping[str, str]]) -> None:
        """Enqueue each trial that nobody has, of those that have not ended: new, stopped and stale ones.

        Args:
            trials: the values of the varied fields of these trials, keyed by the names of the trials.
        """
        with suppress(Locked), lock_folder(self.folder, wait=0):
            fail_stale_trials(self.study)
            last = {attempt.user_attrs["name"]: attempt for attempt in self.study.get_trials()}
            for name, fields in trials.items():
                if name not in last:
                    self.study.enqueue_trial({}, user_attrs={"name": name, "fields": fields})
                elif last[name].state.is_finished():
                    # The next attempt has the values that were proposed for the last one.
                    RetryHeartbeatStaleTrialCallback()(self.study, last[name])

    def take(self) -> tuple[int, str] | None:
        """Take the first waiting trial; return its key and its name, or None if no trial waits."""
        for waiting in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            key = self.storage.get_trial_id_from_study_id_trial_number(self.key, waiting.number)
            # The heartbeat comes first: without any, the trial of a dead worker would never be given away.
            self.storage.record_heartbeat(key)
            with suppress(UpdateFinishedTrialError):
                if self.storage.set_trial_state_values(key, TrialState.RUNNING):
                    return key, waiting.user_attrs["name"]
        return None

    def beat(self, key: int) -> bool:
        """Send a heartbeat for a trial; return False if it was given to another worker."""
        self.storage.record_heartbeat(key)
        return self.storage.get_trial(key).state == TrialState.RUNNING

    def propose(self, key: int, space: Space, seed: int) -> Choice:
        """Return the values that Optuna proposes for a trial, the same again if the trial is resumed.

        Args:
            key: the key of the trial.
            space: the values that each field can take.
            seed: the seed of Optuna's sampler, different for each trial.
        """
        sampler = optuna.samplers.TPESampler(seed=seed)
        study = optuna.load_study(study_name=self.name, storage=self.storage, sampler=sampler)
        trial, choice = optuna.Trial(study, key), {}
        for name, each in space.items():
            if not isinstance(each, Range):
                choice[name] = trial.suggest_categorical(name, each)
            elif each.whole:
                choice[name] = each.text(trial.suggest_int(name, int(each.low), int(each.high), log=each.log))
            else:
                choice[name] = each.text(trial.suggest_float(name, each.low, each.high, log=each.log))
        return choice

    def end(self, key: int, value: float | None) -> None:
        """Give a trial back, with the number that a search minimises if the trial has one."""
        state, values = (TrialState.FAIL, None) if value is None else (TrialState.COMPLETE, [value])
        with suppress(UpdateFinishedTrialError):  # it was given to another worker
            self.storage.set_trial_state_values(key, state, values)
