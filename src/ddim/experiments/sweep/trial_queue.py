"""The queue of a sweep's trials in Optuna's storage: which worker does which trial.

A trial waits in the queue until a worker takes it. The worker then sends heartbeats; without one for as long
as the grace period, the worker counts as dead and its trial returns to the queue. Times are those of the
database's clock. The database says who works on what, the outcome files say what is done. Nothing breaks
when a worker is killed between two steps: a trial that is neither done nor in the queue is enqueued again.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from ddim.errors import FolderLocked, UserError
from ddim.experiments.sweep.folder import Sweep
from ddim.experiments.sweep.optuna_search import propose
from ddim.experiments.sweep.outcome import Outcome, read_outcome
from ddim.experiments.sweep.plan import Trial
from ddim.experiments.sweep.search_space import Choice, Space
from ddim.experiments.sweep.storage import connect, storage_errors
from ddim.runs.lock import lock_folder

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

P = ParamSpec("P")
R = TypeVar("R")

GRACE = 60
"""Seconds without a heartbeat after which a worker counts as dead."""
BEATS = 10
"""Heartbeats in a grace period; a second is the least time between two."""
PATIENCE = 600.0
"""Seconds that a worker waits for a database that does not answer."""


@dataclass
class TakenTrial:
    """A trial that this worker holds, its number and id in the study, and when it last sent a heartbeat."""

    trial: Trial
    number: int
    trial_id: int
    last: float = field(default_factory=time.monotonic)


def _patient(
    method: Callable[Concatenate[TrialQueue, P], R],
) -> Callable[Concatenate[TrialQueue, P], R]:
    """Repeat a method while the database does not answer, for up to `PATIENCE` seconds."""

    @wraps(method)
    def call(queue: TrialQueue, *args: P.args, **kwargs: P.kwargs) -> R:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return method(queue, *args, **kwargs)
            except storage_errors() as error:
                if time.monotonic() > end:
                    raise UserError(
                        f"the storage of {queue.sweep.folder} has not answered for {PATIENCE:.0f} s: {error}"
                    ) from None
                time.sleep(1.0)

    return call


class TrialQueue:
    """One worker's view of the queue of a sweep.

    Args:
        sweep: the sweep.
        address: the address of the storage where it differs from the sweep's, such as by a password.
        grace: seconds without a heartbeat after which a worker counts as dead.

    Raises:
        UserError: if Optuna is not installed, or the storage cannot be reached.
    """

    def __init__(self, sweep: Sweep, address: str | None = None, grace: int = GRACE) -> None:
        self.sweep, self.grace, self.interval = sweep, grace, max(1, grace // BEATS)
        self._trials = {trial.name: trial for trial in sweep.trials}
        self._refused: float | None = None
        # Workers that begin at the same moment would create the same tables.
        with self._alone(wait=True):
            self.storage, self.study = connect(address or sweep.address, sweep.study, self.interval, grace)
        self._study_id = self.storage.get_study_id_from_name(sweep.study)

    @_patient
    def take(self) -> TakenTrial | None:
        """Take the first trial that waits; None if there is none."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        for waiting in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            trial_id = self._id(waiting.number)
            # First: if this worker dies right after taking the trial, a heartbeat exists and can expire.
            self.storage.record_heartbeat(trial_id)
            try:
                taken = self.storage.set_trial_state_values(trial_id, TrialState.RUNNING)
            except UpdateFinishedTrialError:
                continue
            if taken:
                return TakenTrial(self._trials[waiting.user_attrs["name"]], waiting.number, trial_id)
        return None

    @_patient
    def beat(self, taken: TakenTrial) -> bool:
        """Send a heartbeat if it is due; return False if another worker has taken the trial meanwhile."""
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
        """Return the values that a trial of a search should try; the same ones after a worker's death."""
        return propose(self.study, taken.trial_id, space, int(taken.trial.name))

    @_patient
    def finish(self, taken: TakenTrial, outcome: Outcome) -> None:
        """Tell the study how the trial ended."""
        from optuna.trial import TrialState

        value = None if outcome.failed else outcome.value
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        self.study.tell(taken.number, value, state=state, skip_if_finished=True)

    def free(self, taken: TakenTrial) -> None:
        """Return a trial that is not done to the queue, so that another worker can take it at once."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            self.storage.set_trial_state_values(taken.trial_id, TrialState.FAIL)
            self._retry(self.storage.get_trial(taken.trial_id))
        # Another worker has taken it over; or the trial returns by itself after the grace period.
        except (UpdateFinishedTrialError, *storage_errors()):
            return

    @_patient
    def refill(self) -> None:
        """Enqueue the trials of dead workers, and every other trial that is neither done nor in the queue."""
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
                if tries:
                    self._retry(tries[-1])
                else:
                    fields = self._trials[name].fields or {}
                    self.study.enqueue_trial({}, user_attrs={"name": name, "fields": fields})

    def _retry(self, attempt: FrozenTrial) -> None:
        """Enqueue a trial once more, with the values that a search gave it."""
        from optuna.storages import RetryHeartbeatStaleTrialCallback

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna marks this method as experimental.
            RetryHeartbeatStaleTrialCallback()(self.study, attempt)

    def _id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    @contextmanager
    def _alone(self, wait: bool) -> Iterator[bool]:
        """Lock the sweep's folder for this worker; False if another holds it and this one does not wait.

        A worker that holds it for longer than the grace period is frozen. This one then proceeds without the
        lock: a trial may be enqueued twice, and whoever takes it again finds its outcome.
        """
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(lock_folder(self.sweep.folder))
                    break
                except FolderLocked:
                    now = time.monotonic()
                    self._refused = self._refused or now
                    if now - self._refused > self.grace:
                        break
                    if not wait:
                        yield False
                        return
                    time.sleep(0.05)
            self._refused = None
            yield True
