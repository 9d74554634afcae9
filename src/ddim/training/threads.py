"""Fit the number of threads of a training to the cores that other programs leave free."""

from __future__ import annotations

from ddim.errors import format_count
from ddim.nn.cores import CoreMeter, choose_threads
from ddim.nn.runtime import count_cores
from ddim.training.budget import WARM_UP, TimeBudget
from ddim.training.loop import Training

WINDOW = 10.0
"""Seconds over which the use of other programs is measured. The threads change after two equal answers."""


class ThreadWatch:
    """Watches the cores that other programs use while a training runs on a CPU.

    Args:
        training: the training.
        adapt: whether its threads may change. They do not if the run has more threads than this machine has
            cores, because then it repeats a run of a larger machine.
    """

    def __init__(self, training: Training, adapt: bool) -> None:
        self.training, self.cores = training, count_cores()
        self.adapt = adapt and training.runtime.threads <= self.cores
        self.wanted = training.runtime.threads
        self.restart()

    def restart(self) -> None:
        """Begin anew, after some steps in which the compiler works beside this process."""
        self.first, self.meter = self.training.step, CoreMeter()

    def describe_start(self) -> str | None:
        """Return a sentence if the run starts with fewer threads than there are cores."""
        threads = self.training.runtime.threads
        if not self.adapt or threads == self.cores:
            return None
        used = f"{format_count(threads, 'thread')} of {self.cores}"
        return f"other programs hold cores of this machine: training uses {used} until they end"

    def check(self) -> str | None:
        """Change the number of threads if other programs hold more or fewer cores than before.

        Returns:
            A sentence that says so, or None.
        """
        if self.training.runtime.device != "cpu" or self.cores == 1:
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
        # Said once; the number of threads was given, or is that of a larger machine.
        self.cores = 1
        slow = f"{use}: {format_count(threads, 'thread')} may be slow beside them"
        return slow if self.wanted < threads else None


def fit_to_machine(watch: ThreadWatch, budget: TimeBudget) -> str | None:
    """Fit the threads and the planned images to the machine; return a sentence if there is news."""
    if text := watch.check():
        budget.restart()
        return text
    return budget.replan()
