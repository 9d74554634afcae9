"""Ctrl-C, SIGTERM and a closed terminal: one save, and nothing is lost."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

import ddim.machine.signals
import ddim.training.validation
import tiny
from cases import mark_slow
from ddim.errors import Interrupted
from ddim.runs import checkpoint
from ddim.machine.signals import Stopped, note_interrupts, stop_on_signals
from ddim.training import Callback, resume
from ddim.training.loop import Training

KINDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@pytest.fixture(autouse=True)
def foreground():
    """Signals as a process in the foreground has them: one started with & ignores Ctrl-C."""
    kept = {kind: signal.getsignal(kind) for kind in KINDS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    yield
    for kind, handler in kept.items():
        signal.signal(kind, handler)


def send(number):
    # To this thread, so that the handler runs at once; another thread's would run at some later time.
    return lambda training: signal.raise_signal(number)


@pytest.mark.parametrize("number", mark_slow(KINDS, lambda number: number == signal.SIGTERM))
def test_a_signal_ends_a_run_within_a_step_and_a_save(number, tmp_path):
    whole = tiny.train(tiny.recipe(), tmp_path / "whole")
    before = {kind: signal.getsignal(kind) for kind in KINDS}
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


def test_a_signal_ends_a_step_at_once_and_the_step_is_made_again(tmp_path, monkeypatch):
    """As while the network compiles, in a new run and in a resumed one."""
    recipe = tiny.recipe("batch norm")
    whole = tiny.train(recipe, tmp_path / "whole")
    folder, backward = tmp_path / "run", Training._backward
    for stop in (0, 4):

        def interrupted(training, stop=stop):
            found = backward(training)
            if training.step == stop:
                signal.raise_signal(signal.SIGINT)
                pytest.fail("the step went on")
            return found

        monkeypatch.setattr(Training, "_backward", interrupted)
        with pytest.raises(Interrupted):
            resume(folder) if folder.exists() else tiny.train(recipe, folder)
    assert checkpoint.find_newest(folder / "checkpoints").name == "step-000000004"
    monkeypatch.setattr(Training, "_backward", backward)
    resume(folder)
    tiny.check_same_run(folder, whole)


@pytest.mark.parametrize("step", mark_slow([5, 10], lambda step: step == 5))
def test_a_signal_ends_a_validation_at_once_and_it_is_made_again(step, tmp_path, monkeypatch):
    whole = tiny.train(tiny.recipe(), tmp_path / "whole")
    sound, left = ddim.training.validation.generate, [step // 5]

    def interrupted(*args, **options):
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("the sheet was sampled")
        return sound(*args, **options)

    monkeypatch.setattr(ddim.training.validation, "generate", interrupted)
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        tiny.train(tiny.recipe(), folder)
    assert checkpoint.find_newest(folder / "checkpoints").name == f"step-{step:09d}"
    # A power cut between the log of the validation and its checkpoint: it is not logged twice.
    with monkeypatch.context() as patch, contextlib.suppress(tiny.PowerCutError):
        patch.setattr(checkpoint, "save", lambda *_, **__: tiny.crash())
        resume(folder)
    resume(folder)
    tiny.check_same_run(folder, whole)
    sheet = f"samples/step-{step:09d}.png"
    assert (folder / sheet).read_bytes() == (whole / sheet).read_bytes()


@pytest.mark.slow
def test_a_signal_in_the_last_step_leaves_the_last_validation_to_the_resumed_run(tmp_path):
    whole = tiny.train(tiny.recipe(), tmp_path / "whole")
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        tiny.train(tiny.recipe(), folder, callbacks=[tiny.At(10, send(signal.SIGINT))])
    resume(folder)
    tiny.check_same_run(folder, whole)


def test_an_error_that_the_signal_caused_is_no_error():
    """Ctrl-C ends the compiler's processes too, and torch reports them as failed."""
    with note_interrupts() as interrupts:
        with contextlib.suppress(interrupts.ended), interrupts.at_once():
            interrupts.number = signal.SIGINT
            raise RuntimeError("g++ failed")
        interrupts.number = None
        with pytest.raises(RuntimeError, match="failed"), interrupts.at_once():
            raise RuntimeError("g++ failed")


def test_a_warning_about_the_exception_of_a_signal_is_not_shown():
    """torch's compiler prints a traceback if an exception ends a backward pass that it reads."""

    def backward():
        try:
            signal.raise_signal(signal.SIGUSR1)
        finally:
            warnings.warn("Error detected in NativeLayerNormBackward0", stacklevel=1)

    with warnings.catch_warnings(record=True, action="always") as shown:
        with note_interrupts() as interrupts, contextlib.suppress(interrupts.ended), interrupts.at_once():
            backward()
        assert interrupts.number == signal.SIGUSR1
        assert shown == []
        warnings.warn("another", stacklevel=1)
        assert [str(one.message) for one in shown] == ["another"]


def test_a_terminal_that_closes_sends_two_signals_and_the_run_is_saved(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(Interrupted) as caught:
        tiny.train(tiny.recipe(), folder, callbacks=[tiny.At(3, lambda _: [hang_up(), hang_up()])])
    assert caught.value.exit_code == 129
    assert checkpoint.find_newest(folder / "checkpoints").name == "step-000000003"

    def clean():
        with contextlib.ExitStack() as cleaning:
            cleaning.callback(hang_up)
            hang_up()

    with pytest.raises(Stopped) as stopped, stop_on_signals():
        clean()
    assert stopped.value.exit_code == 129


def test_a_signal_in_the_callback_of_a_weak_reference_is_not_lost(capfd):
    """Python ignores what such a callback raises, and torch's compiler has many."""

    def lose():
        thing = type("Thing", (), {})()
        kept = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGTERM))
        del thing
        time.sleep(5)
        pytest.fail(f"the signal was lost {kept}")

    with pytest.raises(Stopped), stop_on_signals():
        lose()
    with note_interrupts() as interrupts, contextlib.suppress(interrupts.ended), interrupts.at_once():
        lose()
    assert interrupts.number == signal.SIGTERM
    assert capfd.readouterr().err == "saving; a second signal stops at once\n"


def hang_up():
    """What a terminal that closes does."""
    signal.raise_signal(signal.SIGHUP)


def test_blocks_of_several_threads_leave_the_hook_of_the_caller():
    usual, blocks = sys.unraisablehook, [stop_on_signals(), stop_on_signals()]
    with ThreadPoolExecutor(1) as thread:
        list(thread.map(lambda block: block.__enter__(), blocks))
        list(thread.map(lambda block: block.__exit__(None, None, None), blocks))  # the first one first
    assert sys.unraisablehook is usual


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the compiler in /proc")
def test_a_compiler_may_remove_its_temporary_files(tmp_path):
    """Python would kill it at once, and its parts of a file would stay in the temporary folder."""
    compiler, left = tmp_path / "g++", tmp_path / "left"
    clean = f"trap 'sleep 0.4; rm {left}; exit 1' TERM"
    compiler.write_text(f"#!/bin/sh\n{clean}\ntouch {left}\nkill -TERM {os.getpid()}\nsleep 3 & wait\n")
    compiler.chmod(0o700)
    with pytest.raises(Stopped), stop_on_signals():
        subprocess.run([str(compiler)], check=False)
    assert not left.exists()


def test_an_ignored_signal_stays_ignored():
    """As `nohup` sets it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_on_signals(), note_interrupts() as interrupts:
        hang_up()
    assert interrupts.number is None


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


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_the_command_exits_with_the_code_of_the_signal(number, code, tmp_path):
    """A real process, a real signal, a real second command."""
    words = ["blossoms:40", "--recipe", "smoke", "--images", "1000000", "--report.log", "1", "--threads"]
    words += ["1", "--precision", "fp32", "--no-compile", "--out", str(tmp_path / "run")]
    process = subprocess.Popen([*tiny.COMMAND, "train", *words], stderr=subprocess.PIPE, text=True)
    with process:
        lines = iter(process.stderr.readline, "")
        assert any(line.startswith("run folder") for line in lines)
        while not (tmp_path / "run" / "metrics.jsonl").read_text():
            time.sleep(0.1)
        began = time.monotonic()
        process.send_signal(number)
        said = process.stderr.read().splitlines()
        assert process.wait(30) == code
    assert time.monotonic() - began < 10
    assert said.count("saving; a second signal stops at once") == 1
    assert said[-1] == (
        f"ddim: stopped and saved; continue with `ddim train --resume --out {tmp_path / 'run'}`"
    )
    assert not [line for line in said if "Traceback" in line]
    checkpoint.verify(checkpoint.find_newest(tmp_path / "run" / "checkpoints"))


SLOW_MODULE = """
import os, signal, time

try:
    os.kill(os.getpid(), signal.SIGTERM)
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        pass
except BaseException:
    whole = False
else:
    whole = True
"""


@pytest.fixture
def slow_module(tmp_path, monkeypatch):
    """The name of a module that gets a signal while it is imported, and would ignore it."""
    (tmp_path / "signalled_import.py").write_text(SLOW_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "signalled_import"
    sys.modules.pop("signalled_import", None)


def import_and_wait(name):
    with stop_on_signals():
        importlib.import_module(name)
        time.sleep(10)


def test_a_signal_waits_for_the_end_of_an_import(slow_module):
    with pytest.raises(Stopped) as caught:
        import_and_wait(slow_module)
    assert caught.value.number == signal.SIGTERM
    assert sys.modules[slow_module].whole


def test_a_signal_that_waits_at_the_end_of_a_block_goes_to_the_block_around_it(slow_module, monkeypatch):
    # The block ends before the timer does.
    monkeypatch.setattr(ddim.machine.signals, "_call_soon", lambda function: True)

    def import_in_a_block():
        with stop_on_signals():
            with note_interrupts() as interrupts:
                inner.append(interrupts)
                importlib.import_module(slow_module)
            time.sleep(10)

    inner = []
    with pytest.raises(Stopped):
        import_in_a_block()
    assert inner[0].number is None


def test_code_that_is_itself_imported_is_stopped_at_once(tmp_path, monkeypatch):
    """As a training that a script starts when it is imported."""
    lines = ["import signal, ddim.machine.signals as s", "with s.stop_on_signals():", " signal.raise_signal(15)"]
    (tmp_path / "whole_training.py").write_text("\n".join([*lines, " while True: pass"]))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Stopped):
        importlib.import_module("whole_training")
