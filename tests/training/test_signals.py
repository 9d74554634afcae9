"""Ctrl-C and SIGTERM: one step and one save, and nothing is lost."""

import signal
import subprocess
import sys
import time

import pytest

import tiny
from ddim.errors import Interrupted
from ddim.runs import checkpoint
from ddim.training import Callback, resume


@pytest.fixture(autouse=True)
def foreground():
    """Signals as a process in the foreground has them: one started with & ignores Ctrl-C."""
    kept = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for kind, handler in kept.items():
        signal.signal(kind, handler)


def send(number):
    # To this thread, so that the handler runs at once; another thread's would run at some later time.
    return lambda training: signal.raise_signal(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_within_a_step_and_a_save(number, tmp_path):
    whole = tiny.train(tiny.recipe(), tmp_path / "whole")
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    folder = tmp_path / "run"
    with pytest.raises(Interrupted) as caught:
        tiny.train(tiny.recipe(), folder, callbacks=[tiny.At(3, send(number))])
    assert caught.value.exit_code == 128 + number
    assert {kind: signal.getsignal(kind) for kind in before} == before
    assert checkpoint.find_newest(folder / "checkpoints").name == "step-000000003"
    resume(folder)
    tiny.check_same_run(folder, whole)


class InEvent(Callback):
    """A signal while a run validates."""

    def on_validation(self, training, values):
        """See `Callback`."""
        if training.step == 5:
            signal.raise_signal(signal.SIGTERM)


def test_a_signal_during_a_validation_loses_nothing(tmp_path):
    whole = tiny.train(tiny.recipe(), tmp_path / "whole")
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        tiny.train(tiny.recipe(), folder, callbacks=[InEvent()])
    resume(folder)
    tiny.check_same_run(folder, whole)


def test_a_signal_in_the_last_step_comes_too_late(tmp_path):
    end = tiny.At(10, send(signal.SIGINT))
    folder = tiny.train(tiny.recipe(), tmp_path / "run", callbacks=[end])
    assert checkpoint.find_newest(folder / "checkpoints").name == "step-000000010"


def test_a_second_signal_stops_at_once_and_the_first_prints_a_line(tmp_path, capsys):
    def twice(training):
        signal.raise_signal(signal.SIGINT)
        assert training.step == 3
        assert "a second signal stops at once" in capsys.readouterr().err
        signal.raise_signal(signal.SIGINT)

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        tiny.train(tiny.recipe(), folder, callbacks=[tiny.At(3, twice)])
    assert checkpoint.find_newest(folder / "checkpoints") is None


def test_a_run_without_its_terminal_is_saved(tmp_path, monkeypatch):
    class Gone:
        def write(self, text):
            raise BrokenPipeError

    def stop(training):
        monkeypatch.setattr(sys, "stderr", Gone())
        signal.raise_signal(signal.SIGTERM)

    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        tiny.train(tiny.recipe(), folder, callbacks=[tiny.At(3, stop)])
    assert checkpoint.find_newest(folder / "checkpoints").name == "step-000000003"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_exits_with_the_code_of_the_signal(number, code, tmp_path):
    """A real process, a real signal, a real second command."""
    words = ["blossoms:40", "--recipe", "smoke", "--images", "1000000", "--report.events", "1", "--threads"]
    words += ["1", "--precision", "fp32", "--no-compile", "--out", str(tmp_path / "run")]
    process = subprocess.Popen([*tiny.COMMAND, "train", *words], stderr=subprocess.PIPE, text=True)
    with process:
        lines = iter(process.stderr.readline, "")
        assert any(line.startswith("run folder") for line in lines)
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(number)
        said = process.stderr.read().splitlines()
        assert process.wait(30) == code
    assert time.monotonic() - began < 10
    assert said.count("finishing this step and saving; a second signal stops at once") == 1
    assert said[-1] == f"ddim: stopped and saved; continue {tmp_path / 'run'} with `--resume`"
    assert not [line for line in said if "Traceback" in line]
    checkpoint.verify(checkpoint.find_newest(tmp_path / "run" / "checkpoints"))
