"""The loop of a training: steps, validations and checkpoints, until its budget is used up.

With several processes, all take the same steps. Process 0 alone has the clock, the files and the callbacks;
the others follow its decisions.
"""

import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ddim.errors import Interrupted, format_count
from ddim.machine.runtime import CoreMeter, choose_threads, count_cores
from ddim.machine.signals import Noted, note_signals
from ddim.training.budget import TimeBudget
from ddim.training.memory import advance_within_memory
from ddim.training.trainer import Trainer
from ddim.training.validation import MeasureKID, sample_preview, validate
from ddim.training.writer import RunWriter

MEASURED = 10.0
"""The least time, in seconds, for which the cores that other programs use are measured."""


@dataclass
class Lead:
    """What process 0 alone has.

    Attributes:
        writer: writes the files of the run, and calls the callbacks.
        budget: converts the minutes of the recipe to images.
        adapt: whether the number of threads may change.
        meter: measures the cores that other programs use, since the threads were last chosen.
    """

    writer: RunWriter
    budget: TimeBudget
    adapt: bool
    meter: CoreMeter = field(default_factory=CoreMeter)


def fit(trainer: Trainer, folder: Path, measure_kid: MeasureKID, lead: Lead | None) -> None:
    """Train, validate and save until the budget is used up, a callback stops the run, or a signal arrives.

    Args:
        trainer: the training, new or loaded from a checkpoint.
        folder: the run folder, for the message of `Interrupted`.
        measure_kid: see `prepare_kid`.
        lead: the files, the callbacks and the clock; None in all processes but the first.

    Raises:
        Interrupted: after a signal, when a checkpoint has been saved.
        NotFinite: if the loss is not finite several times in a row, or a value to be saved is not finite.
        OutOfMemory: if the memory is full, and a batch cannot be trained in smaller parts.
    """
    alone = trainer.processes.count == 1
    with note_signals(twice=alone) as flag:
        # A signal ends the validation of a single process at once. Several processes finish it, because they
        # work on it together.
        if alone:
            trainer.check_signals = flag.check
        if lead:
            lead.writer.start()
        signal = _agree(trainer, lead, flag.number)
        with suppress(Noted):
            while not (trainer.complete or trainer.stopped or signal):
                # A run that a signal stopped in a validation is resumed with this validation, without a step.
                if not trainer.due:
                    values, news = advance_within_memory(trainer)
                    trainer.due = trainer.step in trainer.validation_steps()
                    # This waits for an accelerator, and so does the line of the log that is due here anyway.
                    if trainer.due or trainer.step % trainer.recipe.report.log == 0:
                        trainer.raise_if_not_finite()
                    if lead:
                        lead.writer.finish_step(values, news)
                if trainer.due:
                    _validate(trainer, measure_kid, lead)
                elif lead:
                    lead.writer.save_if_due()
                signal = _agree(trainer, lead, flag.number)
        trainer.raise_if_not_finite()
        if lead:
            lead.writer.finish()
    (signal,) = trainer.processes.highest(flag.number or 0)
    if signal and not trainer.complete:
        raise Interrupted(signal, folder)


def _agree(trainer: Trainer, lead: Lead | None, signal: int | None) -> int:
    """Tell all processes what process 0 has decided; return the number of a signal in any process, or 0.

    Only process 0 has numbers above 0, so the maximum over the processes is its decision.

    Process 0 decides the number of planned images, whether to stop, and whether to validate because the speed
    is known now.
    """
    planned, decisions = trainer.plan.total or 0, [0, 0, 0]
    if lead:
        measured = not planned and lead.budget.is_measured()
        decisions = [planned, trainer.stopped is not None, measured]
    signal, total, stopped, measured = trainer.processes.highest(signal or 0, *decisions)
    if total != planned:
        trainer.fix_total(total)
    if stopped and not lead:
        trainer.stop()
    trainer.due |= bool(measured)
    return signal


def _validate(trainer: Trainer, measure_kid: MeasureKID, lead: Lead | None) -> None:
    """Validate, plan the rest of the run by its speed, and save."""
    if lead:
        _adapt_threads(trainer, lead)
    began = time.monotonic()
    values = validate(trainer) | measure_kid()
    trainer.samples = sample_preview(trainer)
    trainer.due = False
    if lead:
        lead.writer.finish_validation(values)
        lead.budget.spend(time.monotonic() - began)
        if news := lead.budget.plan():
            lead.writer.announce(news)
        lead.writer.save()


def _adapt_threads(trainer: Trainer, lead: Lead) -> None:
    """Use one thread for each core that other programs left free since the threads were last chosen."""
    # While the speed is measured, the threads stay.
    if not lead.adapt or lead.meter.seconds < MEASURED or trainer.plan.total is None:
        return
    before, others, cores = trainer.runtime.threads, lead.meter.others(), count_cores()
    threads, lead.meter = choose_threads(cores, others), CoreMeter()
    if threads != before:
        trainer.set_threads(threads)
        lead.budget.restart()
        lead.writer.announce(
            f"other programs use {others:.1f} of {format_count(cores, 'core')}: "
            f"{format_count(threads, 'thread')} instead of {before} from here on"
        )
