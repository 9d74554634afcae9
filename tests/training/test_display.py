"""What a training shows when it is started from Python, and how a callback ends it."""

import sys
from types import SimpleNamespace

import pytest

import tiny
from ddim.experiments.index import read_run
from ddim.sampling.pipeline import load, read_run_recipe
from ddim.training import Callback, resume


@pytest.fixture
def cell(monkeypatch):
    """What each output of the cell of a notebook, in which this process seems to be, shows in turn."""
    outputs = []

    def display(data, raw, display_id):
        outputs.append([data])
        return SimpleNamespace(update=lambda data, raw, seen=outputs[-1]: seen.append(data))

    python = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=True))
    monkeypatch.setitem(sys.modules, "IPython", python)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    return outputs


def test_a_notebook_cell_shows_one_bar_and_one_sheet(cell, tmp_path):
    tiny.train(tiny.recipe(images=32), tmp_path / "run", progress=True)
    bar, sheet = cell
    assert 'value="32" max="32"' in bar[-1]["text/html"]
    assert "finished; 32 images seen" in bar[-1]["text/plain"]
    assert len(sheet) > 1
    assert all("data:image/png;base64,iVBOR" in data["text/html"] for data in sheet)


def test_a_run_that_ends_too_early_says_how_to_train_on(tmp_path, capsys):
    stop = tiny.At(3, lambda training: training.fix_total(32))
    tiny.train(tiny.recipe(images="none", minutes="3"), tmp_path / "run", progress=True, callbacks=[stop])
    assert f"ddim.resume('{tmp_path}/run', more=" in capsys.readouterr().err.splitlines()[-1]


def test_a_script_prints_lines_or_nothing(tmp_path, capsys):
    tiny.train(tiny.recipe(images=16), tmp_path / "run", progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"run {tmp_path}/run: ")
    assert lines[-1].startswith(f"run {tmp_path}/run: finished; 16 images seen")
    tiny.train(tiny.recipe(images=16), tmp_path / "other", progress=False)
    assert capsys.readouterr().err == ""


class Stop(Callback):
    """Stops a run at a step or at its first validation, and notes the events after that."""

    def __init__(self, step=None):
        self.step, self.events = step, []

    def on_step(self, training, values):
        self.events.append("step")
        if training.step == self.step:
            training.stop("enough")

    def on_validation(self, training, values):
        if self.step is None:
            training.stop("good enough")

    def on_end(self, training):
        self.events.append("end")


@pytest.mark.parametrize(("step", "reason"), [(3, "enough"), (None, "good enough")])
def test_a_callback_stops_a_run_which_is_saved_recorded_and_resumed_exactly(step, reason, whole, tmp_path):
    stop = Stop(step)
    folder = tiny.train(tiny.recipe(), tmp_path / "run", callbacks=[stop])
    saved = load(folder).checkpoint.state
    assert (saved.step, saved.stopped) == (step or 5, reason)
    assert stop.events == ["step"] * saved.step + ["end"]
    assert read_run(folder).state == "stopped"
    resume(folder)
    assert read_run(folder).state == "finished"
    assert load(folder).checkpoint.state.stopped is None
    tiny.check_same_run(folder, whole)


def test_plain_values_of_train_change_its_recipe(tmp_path):
    given = {"size": (16, 24), "images": 8, "seed": 4, "labels": False, "progress": False}
    recipe = read_run_recipe(tiny.train(tiny.recipe(), tmp_path / "run", data="blossoms:41", **given))
    assert (recipe.data.size, recipe.images, recipe.seed) == ((16, 24), 8, 4)
    assert recipe.data.source == "blossoms:41"
