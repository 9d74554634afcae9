"""Trainings beside other programs: they use other numbers of threads, and a resume knows them."""

from dataclasses import replace

import pytest
import torch

import tiny
from ddim.machine.runtime import CoreMeter
from ddim.runs import checkpoint
from ddim.training import Callback, loop, resume
from ddim.training.progress import Display, Pace, describe_pace

MACHINE = replace(tiny.MACHINE, threads=None)


class Told(Callback):
    """Keeps what it is told."""

    def __init__(self):
        self.texts = []

    def on_change(self, training, text):
        """See `Callback`."""
        self.texts.append(text)


@pytest.fixture
def busy(monkeypatch):
    """A function that says how many of two cores other programs use before each validation."""
    monkeypatch.setattr(loop, "count_cores", lambda: 2)
    monkeypatch.setattr(loop, "MEASURED", 0.0)
    monkeypatch.setattr("ddim.training.start.count_allowed", lambda: 2)

    def use(*cores):
        left = iter(cores)
        monkeypatch.setattr(CoreMeter, "others", lambda self: next(left))

    return use


def test_threads_follow_the_other_programs_at_each_validation_and_survive_a_resume(busy, tmp_path):
    before, told = torch.get_num_threads(), Told()
    busy(0.0, 1.0)
    whole = tiny.train(tiny.recipe(), tmp_path / "whole", machine=MACHINE, callbacks=[told])
    changes = [text.rpartition(": ")[2].partition(" instead")[0] for text in told.texts]
    assert changes == ["2 threads", "1 thread"]
    assert torch.get_num_threads() == before
    busy(0.0, 1.0)
    folder = tiny.train_until_crash(tiny.recipe(), tmp_path / "run", tiny.At(7, tiny.crash), machine=MACHINE)
    path = checkpoint.find_newest(folder / "checkpoints")
    assert checkpoint.read_document(path, "state")["runtime"]["threads"] == 2
    resume(folder)
    tiny.check_same_run(folder, whole)


@pytest.mark.parametrize(("machine", "least"), [(tiny.MACHINE, 0.0), (MACHINE, 1000.0)])
def test_threads_that_were_given_and_short_measurements_change_nothing(
    machine, least, busy, tmp_path, monkeypatch
):
    busy()
    monkeypatch.setattr(loop, "MEASURED", least)
    folder = tiny.train(tiny.recipe(), tmp_path / "run", machine=machine)
    assert not [line for line in tiny.metrics(folder) if "threads" in line]


def test_no_time_left_is_shown_that_was_measured_with_other_threads(capsys):
    run, display = tiny.training(updates=5), Display()
    display.folder, display.pace = "run", Pace(0.0, 8)
    for second in range(5):
        display.pace.update(float(second))
    assert "left" in describe_pace(display.pace, run, {"loss": 1.0})
    display.on_change(run, "1 thread instead of 2 from here on")
    assert "measuring the speed" in describe_pace(display.pace, run, {"loss": 1.0})
