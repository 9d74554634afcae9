"""The queue of a sweep's trials, in Optuna's storage.

A trial waits in the queue until a worker takes it. The worker then sends heartbeats. If no heartbeat arrives
for the grace period, by the clock of the database, the worker counts as dead and its trial returns to the
queue.

The database records which worker has which trial; outcome files record which trials are done. A worker may be
killed at any moment. Therefore every trial that is not done, not waiting and not running is enqueued again.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from ddim.errors import Locked, NoSpace, UserError
from ddim.experiments.sweep.folder import Sweep
from ddim.experiments.sweep.optuna_search import propose
from ddim.experiments.sweep.outcome import Outcome, read_outcome
from ddim.experiments.sweep.plan import Trial
from ddim.experiments.sweep.search_space import Choice, Space
from ddim.experiments.sweep.storage import connect, is_full, storage_errors
from ddim.files import LOCK, lock_folder

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

P = ParamSpec("P")
R = TypeVar("R")

GRACE = 60
"""Seconds without a heartbeat after which a worker counts as dead."""
BEATS = 10
"""Heartbeats in a grace period; they are at least a second apart."""
PATIENCE = 600.0
"""Seconds that a worker waits for a database that does not answer."""


@dataclass
class TakenTrial:
    """A trial of this worker, its number and id in the study, and the time of its last heartbeat (s)."""

    trial: Trial
    number: int
    trial_id: int
    last: float = field(default_factory=time.monotonic)


def _patient(
    method: Callable[Concatenate[TrialQueue, P], R],
) -> Callable[Concatenate[TrialQueue, P], R]:
    """Decorate a method so that it is repeated, for up to `PATIENCE` seconds, until the database answers."""

    @wraps(method)
    def call(queue: TrialQueue, *args: P.args, **kwargs: P.kwargs) -> R:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return method(queue, *args, **kwargs)
            except storage_errors() as error:
                if is_full(error):
                    full = "the disk of its storage is full"
                    raise NoSpace(f"{queue.sweep.folder}: {full}: make room, then join it again") from None
                if time.monotonic() > end:
                    raise UserError(
                        f"the storage of {queue.sweep.folder} has not answered for {PATIENCE:.0f} s: {error}"
                    ) from None
                time.sleep(1.0)

    return call


class TrialQueue:
    """The queue of a sweep, as one worker uses it.

    Args:
        sweep: the sweep.
        address: the address of the storage, if it is not that of the sweep, for example to add a password.
        grace: seconds without a heartbeat after which a worker counts as dead.

    Raises:
        UserError: if Optuna is not installed, or the storage cannot be reached.
    """

    def __init__(self, sweep: Sweep, address: str | None = None, grace: int = GRACE) -> None:
        self.sweep, self.grace, self.interval = sweep, grace, max(1, grace // BEATS)
        self._trials = {trial.name: trial for trial in sweep.trials}
        # When the lock of the folder last showed life, and its time then.
        self._alive, self._touched, self._holds = 0.0, 0, False
        # The folder is locked, because workers that begin at the same moment would create the same tables.
        with self._alone(wait=True):
            self.storage, self.study = connect(address or sweep.address, sweep.study, self.interval, grace)
        self._study_id = self.storage.get_study_id_from_name(sweep.study)

    @_patient
    def take(self) -> TakenTrial | None:
        """Take the first waiting trial and return it; return None if no trial waits."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        for waiting in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            trial_id = self._id(waiting.number)
            # The first heartbeat is sent before the trial is taken: without any heartbeat, the trial of a
            # dead worker would never return to the queue.
            self.storage.record_heartbeat(trial_id)
            try:
                taken = self.storage.set_trial_state_values(trial_id, TrialState.RUNNING)
            except UpdateFinishedTrialError:
                continue
            if taken:
                # If the database was slow, the first heartbeat is old. A failure must not lose the trial.
                with suppress(*storage_errors()):
                    self.storage.record_heartbeat(trial_id)
                return TakenTrial(self._trials[waiting.user_attrs["name"]], waiting.number, trial_id)
        return None

    @_patient
    def beat(self, taken: TakenTrial) -> bool:
        """Send a heartbeat if one is due; return False if the trial was given to another worker."""
        from optuna.trial import TrialState

        if time.monotonic() - taken.last < self.interval:
            return True
        if self.storage.get_trial(taken.trial_id).state != TrialState.RUNNING:
            return False
        self.storage.record_heartbeat(taken.trial_id)
        taken.last = time.monotonic()
        return True

    @_patient
    def propose(self, taken: TakenTrial, space: Space) -> Choice:
        """Return the values that a search proposes for a trial; a resumed trial gets the same values."""
        return propose(self.study, taken.trial_id, space, int(taken.trial.name))

    @_patient
    def finish(self, taken: TakenTrial, outcome: Outcome) -> None:
        """Report the outcome of a trial to the study; a trial that already has an outcome keeps it."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        value = None if outcome.failed else outcome.value
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        # Between the check of `tell` and its write, another worker may have ended the trial.
        with suppress(UpdateFinishedTrialError):
            self.study.tell(taken.number, value, state=state, skip_if_finished=True)

    def free(self, taken: TakenTrial) -> None:
        """Return an unfinished trial to the queue, so that another worker can take it immediately."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            self.storage.set_trial_state_values(taken.trial_id, TrialState.FAIL)
            self._retry(self.storage.get_trial(taken.trial_id))
        # If another worker has the trial already, nothing is left to do. If the database does not answer, the
        # trial returns to the queue after the grace period.
        except (UpdateFinishedTrialError, *storage_errors()):
            return

    @_patient
    def refill(self) -> None:
        """Enqueue the trials of dead workers, and all other trials that are not done, waiting or running."""
        from optuna.storages import fail_stale_trials
        from optuna.trial import TrialState

        with self._alone(wait=False) as alone, warnings.catch_warnings():
            if not alone:
                return
            warnings.simplefilter("ignore")  # Optuna calls its heartbeat experimental.
            fail_stale_trials(self.study)
            attempts: dict[str, list[FrozenTrial]] = {name: [] for name in self._trials}
            for attempt in self.study.get_trials():
                attempts[attempt.user_attrs["name"]].append(attempt)
            for name, tries in attempts.items():
                states = {attempt.state for attempt in tries}
                outcome = read_outcome(self.sweep.outcome_file(self._trials[name]))
                done = outcome is not None and (outcome.value is None or TrialState.COMPLETE in states)
                if done or states & {TrialState.WAITING, TrialState.RUNNING}:
                    continue
                self._show_life()
                if tries:
                    self._retry(tries[-1])
                else:
                    fields = self._trials[name].fields or {}
                    self.study.enqueue_trial({}, user_attrs={"name": name, "fields": fields})

    def _retry(self, attempt: FrozenTrial) -> None:
        """Enqueue a trial again, with the values that a search proposed for it."""
        from optuna.storages import RetryHeartbeatStaleTrialCallback

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna marks this method as experimental.
            RetryHeartbeatStaleTrialCallback()(self.study, attempt)

    def _id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    @contextmanager
    def _alone(self, wait: bool) -> Generator[bool]:
        """Lock the sweep's folder, and yield whether this worker may proceed.

        If another worker has locked the folder, this worker waits if `wait` is true, else False is yielded.

        A worker that keeps the lock without a sign of life for the grace period counts as frozen. Then this
        worker proceeds without the lock. As a result, a trial may be enqueued twice. Its second worker waits
        while the run folder is locked, and then uses the outcome of its first worker, if there is one.
        """
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(lock_folder(self.sweep.folder))
                    self._holds = True
                    break
                except Locked:
                    now, touched = time.monotonic(), (self.sweep.folder / LOCK).stat().st_mtime_ns
                    if touched != self._touched:
                        self._alive, self._touched = now, touched
                    if now - self._alive > self.grace:
                        break
                    if not wait:
                        yield False
                        return
                    time.sleep(0.05)
            self._show_life()
            try:
                yield True
            finally:
                self._holds = False

    def _show_life(self) -> None:
        """Update the time of the lock file, so that waiting workers see that this worker is not frozen.

        Filling a queue can take longer than the grace period.
        """
        if self._holds:
            os.utime(self.sweep.folder / LOCK)
