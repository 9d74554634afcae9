"""A clock for trainings, on which each update and each validation takes a given time."""

import types
from dataclasses import replace

import ddim.training.budget
import ddim.training.loop
import ddim.training.run
import ddim.training.writer
import tiny
from ddim.nn.unet import UNetSpec
from ddim.training import Callback


class Clock(Callback):
    """A clock that advances only at updates and validations, by the given seconds.

    `first` is for the first update, `update` for each later one, and `event` for each validation.
    """

    def __init__(self, first=3.0, update=0.2, event=0.5):
        self.now, self.first, self.update, self.aside = 1000.0, first, update, event

    def on_step(self, training, values):
        """See `Callback`."""
        self.now += self.first if training.step == 1 else self.update

    def on_validation(self, training, values):
        """See `Callback`."""
        self.now += self.aside


def install(monkeypatch):
    """Return a new clock, which the modules of training read in place of the real one."""
    ticking = Clock()
    module = types.SimpleNamespace(monotonic=lambda: ticking.now, perf_counter=lambda: ticking.now)
    for part in (ddim.training.run, ddim.training.loop, ddim.training.writer, ddim.training.budget):
        monkeypatch.setattr(part, "time", module)
    return ticking


def quick_recipe(**changes):
    """A recipe with a network of few layers, so that hundreds of updates take seconds."""
    net = UNetSpec(widths=(4,), down=(0,), up=(0,), attention=(False,), embedding=8)
    return replace(tiny.recipe(**changes), net=net)
