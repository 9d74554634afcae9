"""Ctrl-C, SIGTERM and a closed terminal: one save, and nothing is lost."""

import contextlib
import signal

import pytest

import ddim.training.loop
import ddim.training.validation
import tiny
from cases import mark_slow
from ddim.errors import Interrupted
from ddim.runs import checkpoint, names
from ddim.training import resume
from ending import KINDS

pytestmark = pytest.mark.usefixtures("foreground")


def send(number):
    # To this thread, so that the handler runs at once; another thread's would run at some later time.
    return lambda training: signal.raise_signal(number)


@pytest.mark.parametrize(
    ("number", "step"),
    mark_slow(
        [*((kind, 3) for kind in KINDS), (signal.SIGINT, 10)], lambda case: case == (signal.SIGTERM, 3)
    ),
)
def test_a_signal_ends_a_run_within_a_step_and_a_save(number, step, whole, tmp_path):
    """In the last step, it leaves the last validation to the resumed run."""
    before = {kind: signal.getsignal(kind) for kind in KINDS}
    folder = tmp_path / "run"
    with pytest.raises(Interrupted) as caught:
        tiny.train(tiny.recipe(), folder, callbacks=[tiny.At(step, send(number))])
    assert caught.value.exit_code == 128 + number
    assert {kind: signal.getsignal(kind) for kind in before} == before
    assert names.find_checkpoint(folder).name == f"step-{step:09d}"
    resume(folder)
    tiny.check_same_run(folder, whole)


def test_a_signal_in_the_first_step_stops_at_once_and_loses_nothing(whole, tmp_path, monkeypatch):
    """The first step may compile the network, which takes minutes."""

    def compile_network(_training):
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the step went on")

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(ddim.training.loop, "advance_within_memory", compile_network)
        with pytest.raises(Interrupted, match="--resume"):
            tiny.train(tiny.recipe(), folder)
    assert names.find_checkpoint(folder).name == "step-000000000"
    resume(folder)
    tiny.check_same_run(folder, whole)


@pytest.mark.parametrize("step", mark_slow([5, 10], lambda step: step == 5))
def test_a_signal_ends_a_validation_at_once_and_it_is_made_again(step, whole, tmp_path, monkeypatch):
    sound, left = ddim.training.validation.generate_together, [step // 5]

    def interrupted(*args, **options):
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGTERM)
            sound(*args, **options)
            pytest.fail("the sheet was sampled")
        return sound(*args, **options)

    monkeypatch.setattr(ddim.training.validation, "generate_together", interrupted)
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        tiny.train(tiny.recipe(), folder)
    assert names.find_checkpoint(folder).name == f"step-{step:09d}"
    # A power cut between the log of the validation and its checkpoint: it is not logged twice.
    with monkeypatch.context() as patch, contextlib.suppress(tiny.PowerCutError):
        patch.setattr(checkpoint, "save", tiny.crash)
        resume(folder)
    resume(folder)
    tiny.check_same_run(folder, whole)


def test_a_second_signal_stops_at_once_and_the_first_prints_a_line(tmp_path, capsys):
    def twice(training):
        signal.raise_signal(signal.SIGINT)
        assert training.step == 3
        assert "a second signal stops at once" in capsys.readouterr().err
        signal.raise_signal(signal.SIGINT)

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        tiny.train(tiny.recipe(), folder, callbacks=[tiny.At(3, twice)])
    assert names.find_checkpoint(folder).name == "step-000000000"
