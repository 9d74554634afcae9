"""A run that is resumed on another machine, which lacks what the machine before had."""

from dataclasses import replace

import pytest

import tiny
from ddim.cli import main
from ddim.files.documents import read_sealed, write_sealed
from ddim.runs import checkpoint
from ddim.runs.pipeline import load_state
from ddim.training import Callback, resume, run


class Told(Callback):
    """Keeps what it is told."""

    def __init__(self):
        self.texts = []

    def on_change(self, training, text):
        """See `Callback`."""
        self.texts.append(text)


def newest_runtime(folder):
    return load_state(checkpoint.find_newest(folder / "checkpoints")).runtime


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A function that returns a run killed after a step, as if it had begun with this runtime."""

    def begin(step, asked=(), **runtime):
        folder = tiny.train_until_crash(tiny.recipe(), tmp_path / "run", tiny.At(step + 1, tiny.crash))
        facts = read_sealed(folder / "run.json")
        facts["runtime"].update(runtime)
        facts["asked"].update(asked)
        write_sealed(folder / "run.json", facts)

        def load(path):
            state = load_state(path)
            return replace(state, runtime=replace(state.runtime, **runtime))

        monkeypatch.setattr(run, "load_state", load)
        return folder

    return begin


@pytest.mark.parametrize("step", [1, 5])
def test_a_compiled_run_continues_without_compilation_where_torch_cannot_compile(step, begun, monkeypatch):
    monkeypatch.setattr("ddim.training.resumed_machine.can_compile", lambda device: False)
    folder, told = begun(step, compile=True), Told()
    resume(folder, callbacks=[told])
    (said,) = told.texts
    assert said.startswith("not compiled from here on, because torch cannot compile on this machine")
    assert not newest_runtime(folder).compile


def test_a_number_of_threads_that_is_given_at_a_resume_is_fixed(begun, capsys):
    folder = begun(5, {"threads": None})
    facts = read_sealed(folder / "run.json")
    facts["runtime"]["threads"] = 2
    write_sealed(folder / "run.json", facts)
    # Before it was killed, the training had adapted to a busy machine, with one thread.
    assert newest_runtime(folder).threads == 1
    assert main(["train", "--resume", "--out", str(folder), "--threads", "2"]) == 0
    assert "2 threads instead of 1 from here on" in capsys.readouterr().err
    assert newest_runtime(folder).threads == 2
    assert read_sealed(folder / "run.json")["asked"]["threads"] == 2
