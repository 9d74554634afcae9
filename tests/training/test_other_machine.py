"""A run that is resumed on another machine, which lacks what the machine before had."""

import time
from dataclasses import replace

import pytest
from ddim.training.fit import Start
from ddim.training.resumed_machine import adopt_machine, record_machine

import tiny
from ddim.cli import main
from ddim.errors import UserError
from ddim.files import read_sealed, write_sealed
from ddim.machine.distributed import Processes
from ddim.machine.runtime import Runtime
from ddim.runs import checkpoint
from ddim.sampling.pipeline import load_state
from ddim.training import Callback, Machine, resume, run
from ddim.training.request import Request, find_difference


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


def test_threads_that_nobody_fixed_are_at_most_the_cores_of_the_machine(begun, monkeypatch):
    monkeypatch.setattr("ddim.training.resumed_machine.count_allowed", lambda: 8)
    folder, told = begun(5, {"threads": None}, threads=64), Told()
    resume(folder, callbacks=[told])
    assert "8 threads instead of 64 from here on" in told.texts
    assert newest_runtime(folder).threads == 8


def test_a_run_keeps_its_threads_where_its_machine_has_so_many(begun, monkeypatch):
    """The caller's number of torch's threads, which is 1 in all tests, does not change the bits."""
    monkeypatch.setattr("ddim.training.resumed_machine.count_allowed", lambda: 2)
    folder, told = begun(5, {"threads": None}, threads=2), Told()
    resume(folder, callbacks=[told])
    assert told.texts == []
    assert newest_runtime(folder).threads == 2


def test_a_number_of_threads_that_is_fixed_is_not_changed(begun, capsys):
    folder = begun(5, {"threads": None})
    words = ["train", "--resume", "--out", str(folder), "--threads"]
    assert main([*words, "2"]) == 0
    assert main([*words, "2"]) == 0
    assert main([*words, "1"]) == 2
    assert "has threads = 2, but the request has threads = 1" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["mps", "mps:0"])
def test_a_compiled_run_of_an_apple_gpu_stays_compiled(device, tmp_path, monkeypatch):
    monkeypatch.setattr("ddim.training.resumed_machine.find_device", lambda wanted: wanted)
    start = Start(tmp_path, (), 5, time.monotonic(), True)
    runtime = Runtime(device, compile=True)
    document = {"asked": {"device": "auto", "threads": None}, "runtime": vars(runtime)}
    assert adopt_machine(document, runtime, start, Processes()) == (runtime, [])


@pytest.fixture
def gpus(monkeypatch):
    """A function that sets the number of GPUs of this machine, as far as a training can tell."""

    def have(count):
        possible = ["cpu", *(["cuda"] if count else []), *(f"cuda:{k}" for k in range(count))]

        def find(wanted):
            if wanted not in possible:
                raise UserError(f"device must be one of {possible}, got {wanted!r}")
            return wanted

        for name in ("resumed_machine", "request"):
            monkeypatch.setattr(f"ddim.training.{name}.find_device", find)

    return have


def test_a_run_of_a_gpu_that_this_machine_lacks_continues_on_another(begun, gpus):
    folder = begun(5, {"device": "auto"}, device="cuda:1")
    start = Start(folder, (), 5, 0.0, adapt=False)

    def adopt(recorded="cuda:1"):
        runtime, news = adopt_machine(read_sealed(folder / "run.json"), Runtime(recorded), start, Processes())
        return runtime.device, news

    gpus(2)
    assert adopt() == ("cuda:1", [])
    gpus(1)
    assert adopt() == ("cuda", ["cuda instead of cuda:1 from here on"])
    assert adopt("cuda") == ("cuda", [])
    # The same with --device: the device of the run, or another one that this machine has.
    for device in ("cuda:1", "cuda", "cuda:0"):
        assert find_difference(folder, Request(machine=Machine(device))) is None
    with pytest.raises(UserError, match="device must be one of .*'cuda:0'], got 'cuda:2'"):
        find_difference(folder, Request(machine=Machine("cuda:2")))
    assert find_difference(folder, Request(machine=Machine("cpu"))).run == "cuda:1"
    record_machine(folder, Machine("cuda:0"))
    assert adopt() == ("cuda:0", ["cuda:0 instead of cuda:1 from here on"])
    gpus(0)
    with pytest.raises(UserError, match=f"^run {folder} was trained on cuda, which this machine lacks: resu"):
        adopt()
