"""The loop of a training: steps, validations and checkpoints, until its budget is used up.

With several processes, all take the same steps. Process 0 alone has the clock, the files and the callbacks;
the others follow its decisions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ddim.errors import Interrupted, NotFinite, format_count
from ddim.files import write_atomic
from ddim.machine.distributed import Processes, act_as
from ddim.machine.runtime import CoreMeter, choose_threads, count_cores
from ddim.machine.signals import Noted, SignalFlag, note_signals
from ddim.recipe.codec import write_recipe
from ddim.runs.log import RunLog
from ddim.training.budget import TimeBudget
from ddim.training.callbacks import Callback, Checkpoints, Log, SampleGrid, Snapshots
from ddim.training.kid import MeasureKID
from ddim.training.loop import Training
from ddim.training.memory import advance_within_memory
from ddim.training.validation import sample_preview, validate

CHECKED_EVERY = 1.0
"""Seconds between two checks that the losses are finite; each check waits until an accelerator is done."""

MEASURED = 10.0
"""The least time, in seconds, for which the cores that other programs use are measured."""


@dataclass(frozen=True)
class Start:
    """How a training begins in this process.

    Attributes:
        folder: the run folder.
        callbacks: further callbacks, called after those for samples, log and checkpoints.
        resumed: the step of the checkpoint; None for a new run.
        began: `time.monotonic()` when the command started.
        adapt: whether the number of threads may change; it may if the user gave no number.
        news: sentences about the start for the callbacks.
    """

    folder: Path
    callbacks: Sequence[Callback]
    resumed: int | None
    began: float
    adapt: bool
    news: Sequence[str] = ()


def fit(training: Training, measure_kid: MeasureKID, start: Start) -> None:
    """Train, validate and save until the budget is used up or a signal arrives.

    Args:
        training: the training, at its start or restored from a checkpoint.
        measure_kid: see `prepare_kid`.
        start: the folder, the callbacks and the clock.

    Raises:
        Interrupted: after a signal, when a checkpoint has been saved.
        NotFinite: if the loss is not finite several times in a row, or a value to be saved is not finite.
        OutOfMemory: if the memory is full, see `advance_within_memory`.
    """
    alone = training.processes.count == 1
    with _open_lead(training, start) as lead, note_signals(twice=alone) as flag:
        if alone:
            # Several processes end a validation together.
            training.check_signals = flag.check
        loop = _Loop(training, measure_kid, flag, lead)
        loop.begin(start)
        try:
            with suppress(Noted):
                while not (training.complete or training.stopped or loop.signal):
                    loop.advance()
            loop.raise_if_not_finite()
            loop.tell(lambda hook: hook.on_end(training))
        except NotFinite as error:
            advice = f": {lead.checkpoints.advise()}" if lead else ""
            raise NotFinite(f"{error}{advice}") from None
    (signal,) = training.processes.highest(flag.number or 0)
    if signal and not training.complete:
        raise Interrupted(signal, start.folder)


@dataclass
class _Lead:
    """The objects that only process 0 has: the callbacks, which include the log, and the clock.

    Attributes:
        hooks: the callbacks.
        checkpoints: the callback that saves checkpoints.
        budget: converts the minutes of the recipe to images.
        adapt: whether the number of threads may change.
        meter: measures the cores that other programs use, since the last validation.
    """

    hooks: list[Callback]
    checkpoints: Checkpoints
    budget: TimeBudget
    adapt: bool
    meter: CoreMeter


@contextmanager
def _open_lead(training: Training, start: Start) -> Generator[_Lead | None]:
    """Open the log and yield the objects that only process 0 has; yield None in the other processes."""
    if not training.processes.leads:
        yield None
        return
    if start.resumed is None:
        # This file is for readers and for --recipe; `resume` reads the recipe in the checkpoint instead.
        write_atomic(start.folder / "recipe.yaml", write_recipe(training.recipe).encode())
    with RunLog(start.folder, start.resumed, training.due) as log:
        given = list(start.callbacks)
        checkpoints = Checkpoints(log, given)
        # Callbacks are called in this order. So a checkpoint is written after the samples and the log of its
        # step, and before the user's callbacks are called.
        hooks: list[Callback] = [SampleGrid(log, given), Log(log, given), Snapshots(), checkpoints, *given]
        # The other processes of a training would count as other programs.
        adapt = start.adapt and training.runtime.device == "cpu" and training.processes.count == 1
        yield _Lead(hooks, checkpoints, TimeBudget(training, start.began), adapt, CoreMeter())


class _Loop:
    """The steps of a training in one process.

    Attributes:
        signal: number of the signal that ends the training; 0 if there was none.
    """

    def __init__(
        self, training: Training, measure_kid: MeasureKID, flag: SignalFlag, lead: _Lead | None
    ) -> None:
        self.training, self.measure_kid = training, measure_kid
        self.flag, self.lead = flag, lead
        self.signal = 0
        # `_check` is above 0 if all processes check the losses after the next step. Process 0 decides this.
        self._checked, self._check = time.monotonic(), 0

    def tell(self, call: Callable[[Callback], None]) -> None:
        """Apply `call` to each callback; only process 0 has callbacks."""
        if self.lead:
            # A callback that samples or evaluates must not wait for the other processes.
            with act_as(Processes()):
                for hook in self.lead.hooks:
                    call(hook)

    def begin(self, start: Start) -> None:
        """Call `on_start` of the callbacks, and `on_change` with each sentence about the start."""
        self.tell(lambda hook: hook.on_start(self.training, start.folder))
        for text in start.news:
            self.tell(lambda hook, text=text: hook.on_change(self.training, text))
        self._share_stop(*self.training.processes.highest(self._stops))

    def advance(self) -> None:
        """Train for one step, then validate and save if that is due.

        If a signal stopped the validation of the previous step, only this validation is made again.
        """
        training, lead = self.training, self.lead
        if not training.due:
            values, changed = advance_within_memory(training)
            training.due = training.plan.total is not None and training.step in training.validation_steps()
            if training.due or self._check:
                self.raise_if_not_finite()
            self.tell(lambda hook: hook.on_step(training, values))
            if changed and lead:
                # As below, a run that is resumed from here continues with the same parts.
                self.tell(lambda hook: hook.on_change(training, changed))
                lead.checkpoints.save(training)
        if self._agree_on_end_of_measurement():
            self._validate()
            if lead:
                lead.budget.fix_total()
                lead.checkpoints.save(training)
        elif training.due:
            self._validate()
        elif lead and (text := lead.budget.replan()):
            # A checkpoint is saved at once, so that a run resumed from here continues with the same choices.
            self.tell(lambda hook: hook.on_change(training, text))
            lead.checkpoints.save(training)
        elif lead:
            lead.checkpoints.save_if_due(training)
        self._agree_on_plan()

    def _agree_on_end_of_measurement(self) -> bool:
        """Return whether process 0 has measured the speed, so that it can convert the minutes to images."""
        if self.training.plan.total is not None:
            return False
        return bool(self.training.processes.highest(bool(self.lead) and self.lead.budget.is_measured())[0])

    def _agree_on_plan(self) -> None:
        """Tell all processes the decisions of process 0, and whether a signal arrived in any process.

        Process 0 decides the number of planned images, whether to stop, and when to check the losses.
        """
        training, leads = self.training, self.lead is not None
        total = training.plan.total or 0
        check = leads and time.monotonic() - self._checked > CHECKED_EVERY
        self.signal, stopped, planned, self._check = training.processes.highest(
            self.flag.number or 0, self._stops, total if leads else 0, check
        )
        self._share_stop(stopped)
        if planned != total:
            training.fix_total(planned)

    @property
    def _stops(self) -> bool:
        """Whether a callback, which only process 0 has, stopped the training."""
        return self.lead is not None and self.training.stopped is not None

    def _share_stop(self, stopped: int) -> None:
        if stopped and self.lead is None:
            self.training.stop()

    def raise_if_not_finite(self) -> None:
        """Raise `NotFinite` if too many steps in a row were not finite; this waits for the device."""
        self._checked = time.monotonic()
        self.training.finite.raise_if_failed()

    def _validate(self) -> None:
        """Validate and call the callbacks."""
        self._fit_threads()
        began, training = time.monotonic(), self.training
        values = validate(training) | self.measure_kid()
        training.samples = sample_preview(training)
        self.tell(lambda hook: hook.on_validation(training, values))
        training.due = False
        if self.lead:
            self.lead.budget.spend(time.monotonic() - began)

    def _fit_threads(self) -> None:
        """Choose the number of threads again, for the cores that other programs left free of late."""
        training, lead = self.training, self.lead
        # While the speed is measured, the threads stay.
        if lead is None or not lead.adapt or lead.meter.seconds < MEASURED or training.plan.total is None:
            return
        before, others = training.runtime.threads, lead.meter.others()
        threads = choose_threads(count_cores(), others)
        lead.meter = CoreMeter()
        if threads != before:
            training.set_threads(threads)
            lead.budget.restart()
            use = f"other programs use {others:.1f} of {format_count(count_cores(), 'core')}"
            text = f"{use}: {format_count(threads, 'thread')} instead of {before} from here on"
            self.tell(lambda hook: hook.on_change(training, text))
