"""Fit the number of threads of a training to the cores that other programs leave free."""

from __future__ import annotations

from ddim.errors import format_count
from ddim.nn.cores import CoreMeter, choose_threads, count_allowed
from ddim.nn.runtime import count_cores
from ddim.training.budget import WARM_UP, TimeBudget
from ddim.training.loop import Training

WINDOW = 10.0
"""Seconds over which the processor use of other programs is measured.

The number of threads changes after two measurements in a row that lead to the same number.
"""


class ThreadWatch:
    """Watches the cores that other programs use while a training runs on a CPU.

    Args:
        training: the training.
        adapt: whether the number of threads may change.
    """

    def __init__(self, training: Training, adapt: bool) -> None:
        self.training, self.cores = training, count_cores()
        self.adapt, self.wanted = adapt, training.runtime.threads
        self.restart()

    def restart(self) -> None:
        """Restart the measurement; it skips `WARM_UP` steps, in which the compiler uses other cores."""
        self.first, self.meter = self.training.step, CoreMeter()

    def describe_start(self) -> str | None:
        """Return a sentence if the number of threads fits the cores badly at the start, else None.

        This is so if other programs use cores, or if the user fixed more threads than there are cores.
        """
        threads, cores = self.training.runtime.threads, count_allowed()
        if self.training.runtime.device != "cpu":
            return None
        if threads > cores:
            machine = f"this machine {format_count(cores, 'core')}"
            return f"the run has {threads} threads and {machine}: training may be slow"
        if not self.adapt or threads >= self.cores or self.training.processes.count > 1:
            return None
        used = f"{format_count(threads, 'thread')} of {self.cores}"
        return f"other programs use cores of this machine: training uses {used} until they end"

    def check(self) -> str | None:
        """Change the number of threads if other programs use more or fewer cores than before.

        Returns:
            A sentence about the change; None if nothing changes. A fixed number of threads does not change;
            at most one call then returns a sentence that training may be slow because of other programs.
        """
        # The other processes of a training would count as other programs.
        if self.training.runtime.device != "cpu" or self.cores == 1 or self.training.processes.count > 1:
            return None
        if self.training.runtime.threads > self.cores:
            # `describe_start` has said so.
            return None
        if self.training.step - self.first < WARM_UP:
            self.meter.restart()
        if self.meter.seconds < WINDOW:
            return None
        others = self.meter.others()
        self.meter.restart()
        before, self.wanted = self.wanted, choose_threads(self.cores, others)
        threads = self.training.runtime.threads
        if self.wanted != before or self.wanted == threads:
            return None
        use = f"other programs use {others:.1f} of {self.cores} cores"
        if self.adapt:
            self.training.set_threads(self.wanted)
            self.restart()
            return f"{use}: {format_count(self.wanted, 'thread')} instead of {threads} from here on"
        # This message is returned only once, because the user has fixed the number of threads.
        self.cores = 1
        slow = f"{use}: training with {format_count(threads, 'thread')} may be slow"
        return slow if self.wanted < threads else None


def fit_to_machine(watch: ThreadWatch, budget: TimeBudget) -> str | None:
    """Fit the threads and the training length to the machine; return a sentence about a change, or None."""
    if text := watch.check():
        budget.restart()
        return text
    return budget.replan()
