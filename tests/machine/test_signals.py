"""Ctrl-C, SIGTERM and a closed terminal: a command ends at once, a training first sees a flag."""

import contextlib
import signal
import sys

import pytest

from ddim.machine.signals import Noted, Stopped, note_signals, stop_on_signals
from ending import KINDS

pytestmark = pytest.mark.usefixtures("foreground")


@pytest.mark.parametrize("number", KINDS)
def test_a_signal_ends_a_command_with_its_exit_code(number):
    before = {kind: signal.getsignal(kind) for kind in KINDS}
    with pytest.raises(Stopped) as stopped, stop_on_signals():
        signal.raise_signal(number)
    assert stopped.value.exit_code == 128 + number
    assert {kind: signal.getsignal(kind) for kind in KINDS} == before


def test_a_training_notes_the_first_signal_and_a_second_stops_it(capsys):
    with note_signals() as flag:
        flag.check()
        signal.raise_signal(signal.SIGINT)
        assert flag.number == signal.SIGINT
        assert "a second signal stops at once" in capsys.readouterr().err
        with pytest.raises(Noted):
            flag.check("samples", 1, 20)
        with pytest.raises(Stopped) as stopped:
            signal.raise_signal(signal.SIGTERM)
    assert stopped.value.exit_code == 143


def test_a_launcher_repeats_a_signal_and_only_the_first_one_counts(capsys):
    with note_signals(twice=False) as flag:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert flag.number == signal.SIGINT
    assert capsys.readouterr().err == "saving\n"


def test_a_terminal_that_closes_sends_two_signals_and_the_second_does_not_stop_the_cleanup():
    cleaning = contextlib.ExitStack()
    cleaning.callback(signal.raise_signal, signal.SIGHUP)
    with pytest.raises(Stopped) as stopped, stop_on_signals(), cleaning:
        signal.raise_signal(signal.SIGHUP)
    assert stopped.value.exit_code == 129


def test_an_ignored_signal_stays_ignored():
    """As `nohup` sets it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_on_signals(), note_signals() as flag:
        signal.raise_signal(signal.SIGHUP)
    assert flag.number is None


def test_a_signal_is_noted_although_the_terminal_is_gone(monkeypatch):
    class Gone:
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    with note_signals() as flag:
        signal.raise_signal(signal.SIGTERM)
    assert flag.number == signal.SIGTERM
