"""What a training shows when it is started from Python, and how a callback ends it."""

import sys
from types import SimpleNamespace

import pytest

import tiny
from ddim.errors import UserError
from ddim.experiments.index import read_run
from ddim.runs import checkpoint
from ddim.sampling.pipeline import load, read_run_recipe
from ddim.training import Callback, resume, train


class Shown:
    """One output of a notebook cell."""

    def __init__(self, data):
        self.data = [data]

    def update(self, data, raw):
        self.data.append(data)


@pytest.fixture
def cell(monkeypatch):
    """The outputs of the cell of a notebook, which this process seems to be."""
    outputs = []

    def display(data, raw, display_id):
        outputs.append(Shown(data))
        return outputs[-1]

    python = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=True))
    monkeypatch.setitem(sys.modules, "IPython", python)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    return outputs


def test_a_notebook_cell_shows_one_bar_and_one_sheet(cell, tmp_path, capsys):
    tiny.train(tiny.recipe(images=32), tmp_path / "run", progress=True)
    bar, sheet = cell
    assert any("training and" in data["text/plain"] for data in bar.data)
    assert 'value="32" max="32"' in bar.data[-1]["text/html"]
    assert "finished; 32 images seen in 0:0" in bar.data[-1]["text/plain"]
    assert "validation error 0." in bar.data[-1]["text/html"]
    assert len(sheet.data) > 1
    assert all("data:image/png;base64,iVBOR" in data["text/html"] for data in sheet.data)
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("few training images") for line in lines)


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


@pytest.mark.parametrize("step", [3, None])
def test_a_callback_stops_a_run_which_is_saved_recorded_and_resumed_exactly(step, tmp_path):
    recipe = tiny.recipe(images=40)
    stop = Stop(step)
    folder = tiny.train(recipe, tmp_path / "run", callbacks=[stop], progress=False)
    saved = load(folder).checkpoint.state
    assert saved.stopped == ("enough" if step else "good enough")
    assert stop.events == ["step"] * saved.step + ["end"]
    assert read_run(folder).state == "stopped"
    resume(folder, progress=False)
    assert read_run(folder).state == "finished"
    assert load(folder).checkpoint.state.stopped is None
    whole = tiny.train(recipe, tmp_path / "whole", progress=False)
    paths = [checkpoint.find_newest(run / "checkpoints") for run in (folder, whole)]
    one, other = (checkpoint.read_tensors(path, "model") for path in paths)
    assert tiny.different(one, other) == []


def test_plain_values_of_train_change_its_recipe(tmp_path, capsys):
    given = {"size": (32, 40), "images": 8, "seed": 4, "labels": False, "progress": False}
    folder = tiny.train(tiny.recipe(), tmp_path / "run", data="blossoms:41", **given)
    recipe = read_run_recipe(folder)
    assert (recipe.data.size, recipe.images, recipe.seed) == ((32, 40), 8, 4)
    assert recipe.data.source == "blossoms:41"
    with pytest.raises(UserError, match="give minutes or images, not both"):
        train("blossoms:40", minutes=1, images=8)
    with pytest.raises(UserError, match=r"data\.size \(--size\) must be"):
        train("blossoms:40", size="big")
