"""Trainings beside other programs: they use other numbers of threads, and a resume knows them."""

from dataclasses import replace

import pytest
import torch

import tiny
from ddim.machine.runtime import CoreMeter
from ddim.runs import checkpoint, names
from ddim.training import Callback, loop, resume

MACHINE = replace(tiny.MACHINE, threads=None)
RECIPE = tiny.recipe(images=32, data__size=16)


@pytest.fixture
def busy(monkeypatch):
    """A function that says how many of two cores other programs use before each validation."""
    monkeypatch.setattr(loop, "count_cores", lambda: 2)
    monkeypatch.setattr(loop, "METER_SECONDS", 0.0)
    monkeypatch.setattr("ddim.training.machine.count_allowed", lambda: 2)

    def use(*cores):
        left = iter(cores)
        monkeypatch.setattr(CoreMeter, "others", lambda self: next(left))

    return use


def test_threads_follow_the_other_programs_at_each_validation_and_survive_a_resume(busy, tmp_path):
    before, texts = torch.get_num_threads(), []
    listener = Callback()
    listener.on_change = lambda training, text: texts.append(text)
    busy(0.0, 1.0)
    whole = tiny.train(RECIPE, tmp_path / "whole", machine=MACHINE, callbacks=[listener])
    assert ["2 threads" in texts[0], "1 thread " in texts[1]] == [True, True]
    assert torch.get_num_threads() == before
    busy(0.0, 1.0)
    folder = tiny.train_until_crash(RECIPE, tmp_path / "run", tiny.At(3, tiny.crash), machine=MACHINE)
    path = names.find_checkpoint(folder)
    assert checkpoint.read_document(path, "state")["runtime"]["threads"] == 2
    resume(folder)
    tiny.check_same_run(folder, whole)
