"""The loop of a training: steps, validations and checkpoints, until its budget is used up.

With several processes, all take the same steps. Process 0 alone has the files, the callbacks and the time
budget; the others follow its decisions.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ddim.errors import Interrupted, format_count
from ddim.machine.runtime import CoreMeter, choose_threads, count_cores
from ddim.machine.signals import Noted, SignalFlag, Stopped, note_signals
from ddim.training.budget import TimeBudget
from ddim.training.memory import advance_within_memory
from ddim.training.trainer import Trainer
from ddim.training.validation import MeasureKID, sample_preview, validate
from ddim.training.writer import RunWriter

METER_SECONDS = 10.0
"""A validation chooses the number of threads again only if the cores were watched for at least this time."""


@dataclass
class Lead:
    """The files, the callbacks, the time budget and the choice of threads, which only process 0 has.

    Attributes:
        writer: writes the files of the run, and calls the callbacks.
        budget: converts the minutes of the recipe to images.
        may_change_threads: whether the number of threads may change.
        meter: measures the cores that other programs use, since the threads were last chosen.
    """

    writer: RunWriter
    budget: TimeBudget
    may_change_threads: bool
    meter: CoreMeter = field(default_factory=CoreMeter)


def fit(trainer: Trainer, folder: Path, measure_kid: MeasureKID, lead: Lead | None) -> None:
    """Train, validate and save until the budget is used up, a callback stops the run, or a signal arrives.

    Args:
        trainer: the training, new or loaded from a checkpoint.
        folder: the run folder, for the message of `Interrupted`.
        measure_kid: see `prepare_kid`.
        lead: what only process 0 has; None in the other processes.

    Raises:
        Interrupted: if a signal came before the run was complete; a checkpoint is saved first.
        NotFinite: if loss or gradient is not finite several times in a row, or a value to be saved is not.
        OutOfMemory: if the memory is full, and a batch cannot be trained in smaller parts.
    """
    alone = trainer.processes.count == 1
    with note_signals(twice=alone) as flag, _interrupted_at_once(flag, folder):
        # In a single process, a signal ends a validation after its present sampling step: `flag.check` raises
        # `Noted`. Several processes work on a validation together, so they finish it.
        if alone:
            trainer.check_signals = flag.check
        if lead:
            lead.writer.start()
        signal = _share_decisions(trainer, lead, flag.number)
        with suppress(Noted):
            while not (trainer.complete or trainer.stopped or signal):
                # A run resumed in the middle of a validation first repeats this validation.
                if not trainer.due:
                    # A step may compile the network for minutes. If it follows a checkpoint, a signal loses
                    # nothing but this step.
                    flag.at_once = alone and lead is not None and lead.writer.saved
                    values, notice = advance_within_memory(trainer)
                    flag.at_once = False
                    trainer.due = trainer.step in trainer.validation_steps()
                    # This check waits until an accelerator has done its work. The log and a validation wait
                    # for it as well, so at these steps the check costs no time.
                    if trainer.due or trainer.step % trainer.recipe.report.log == 0:
                        trainer.raise_if_not_finite()
                    if lead:
                        lead.writer.finish_step(values, notice)
                if trainer.due:
                    _validate(trainer, measure_kid, lead)
                elif lead:
                    lead.writer.save_if_due()
                signal = _share_decisions(trainer, lead, flag.number)
        trainer.raise_if_not_finite()
        if lead:
            lead.writer.finish()
    # A signal may have arrived after the last call of `_share_decisions`.
    (signal,) = trainer.processes.highest(flag.number or 0)
    if signal and not trainer.complete:
        raise Interrupted(signal, folder)


@contextmanager
def _interrupted_at_once(flag: SignalFlag, folder: Path) -> Generator[None]:
    """Raise `Interrupted` in place of `Stopped`, if a signal stopped a step that follows a checkpoint."""
    try:
        yield
    except Stopped as stopped:
        if flag.at_once:
            raise Interrupted(stopped.number, folder) from None
        raise


def _share_decisions(trainer: Trainer, lead: Lead | None, signal: int | None) -> int:
    """Share the decisions of process 0 with all processes; return the number of a signal, or 0.

    Process 0 decides two things: the number of planned images, and whether to stop. It plans this number as
    soon as the speed is known. The other processes send 0 for these decisions, so the maximum is what
    process 0 sent. A signal counts if it reached any process.
    """
    decisions = [0, 0]
    if lead:
        if trainer.plan.total is None:
            lead.budget.plan()
        decisions = [trainer.plan.total or 0, trainer.stopped is not None]
    signal, total, stopped = trainer.processes.highest(signal or 0, *decisions)
    if total != (trainer.plan.total or 0):
        trainer.fix_total(total)
    if stopped and not lead:
        trainer.stop()
    return signal


def _validate(trainer: Trainer, measure_kid: MeasureKID, lead: Lead | None) -> None:
    """Choose the number of threads, validate, plan the rest of the run from the measured speed, and save."""
    if lead:
        _adapt_threads(trainer, lead)
    began = time.monotonic()
    values = validate(trainer) | measure_kid()
    trainer.samples = sample_preview(trainer)
    trainer.due = False
    if lead:
        lead.writer.finish_validation(values)
        lead.budget.spend(time.monotonic() - began)
        if notice := lead.budget.plan():
            lead.writer.announce(notice)
        lead.writer.save()


def _adapt_threads(trainer: Trainer, lead: Lead) -> None:
    """Set the number of threads to the cores that other programs have left free since the last choice."""
    # Without a total, the speed is still being measured, and the number of threads must not change.
    measured = time.monotonic() - lead.meter.began
    if not lead.may_change_threads or measured < METER_SECONDS or trainer.plan.total is None:
        return
    before, others, cores = trainer.runtime.threads, lead.meter.others(), count_cores()
    threads, lead.meter = choose_threads(cores, others), CoreMeter()
    if threads != before:
        trainer.runtime = replace(trainer.runtime, threads=threads)
        torch.set_num_threads(threads)
        lead.budget.restart()
        lead.writer.announce(
            f"other programs use {others:.1f} of {format_count(cores, 'core')}: "
            f"{format_count(threads, 'thread')} instead of {before} from here on"
        )
