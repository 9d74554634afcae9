"""What a training shows when it is started from Python, and how a callback ends it."""

import sys
from types import SimpleNamespace

import pytest

import tiny
from ddim.experiments.index import read_run
from ddim.sampling.pipeline import load
from ddim.training import resume


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


def test_a_script_that_configures_logging_gets_the_lines_there(tmp_path, capsys, caplog):
    with caplog.at_level("INFO", "ddim"):
        tiny.train(tiny.recipe(images=16), tmp_path / "run", progress=True)
    assert caplog.messages[-1].startswith(f"run {tmp_path}/run: finished; 16 images seen")
    assert {record.name for record in caplog.records} == {"ddim"}
    assert capsys.readouterr().err == ""


def test_a_script_prints_lines_or_nothing(tmp_path, capsys):
    tiny.train(tiny.recipe(images=16), tmp_path / "run", progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"run {tmp_path}/run: ")
    assert lines[-1].startswith(f"run {tmp_path}/run: finished; 16 images seen")
    tiny.train(tiny.recipe(images=16), tmp_path / "other", progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("step", [3, 5])
def test_a_callback_stops_a_run_which_is_saved_recorded_and_resumed_exactly(step, whole, tmp_path):
    """At a step, or at a validation, which is after step 5."""
    events, stop = [], tiny.At(step if step == 3 else None, lambda training: training.stop("enough"))
    stop.on_end = lambda training: events.append(training.step)
    stop.on_validation = lambda training, values: training.stop("enough")
    folder = tiny.train(tiny.recipe(), tmp_path / "run", callbacks=[stop])
    saved = load(folder).checkpoint.state
    assert (saved.step, saved.stopped) == (step, "enough")
    assert events == [step]
    assert read_run(folder).state == "stopped"
    resume(folder)
    assert read_run(folder).state == "finished"
    assert load(folder).checkpoint.state.stopped is None
    tiny.check_same_run(folder, whole)
