"""A training in several processes of torchrun is that of one process."""

import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from ddim.cli import main
from ddim.errors import UserError
from ddim.files.locks import LOCK
from ddim.nn import processes
from ddim.nn.processes import Processes
from ddim.nn.runtime import Runtime
from ddim.runs import pipeline
from ddim.runs.codec import write_recipe
from ddim.training.fit import Start
from ddim.training.shared_settings import adopt_processes, check_processes, describe_processes
from in_processes import CASES, launch
from in_processes import main as train_cases
from kill_processes import Launch
from small_recipes import make_small

SUPPORT = Path(__file__).parents[1] / "support"
SOME = ["luz", "ddpm", "edm", "accumulated", "dropout", "labels", "augmented", "loss-aware", "averages"]
SOME += ["clusters", "recomputed", "recomputed dropout", "consistency", "muon"]


def launch_cases(folder, processes, updates, cases):
    done = launch(processes, SUPPORT / "in_processes.py", folder, updates, *cases)
    assert done.returncode == 0, done.stderr
    return folder


def distance(one, other):
    """The relative distance of two groups of tensors."""
    pairs = [(one[name].double(), other[name].double()) for name in one]
    return math.sqrt(
        sum((a - b).square().sum().item() for a, b in pairs) / sum(a.square().sum().item() for a, _ in pairs)
    )


def check_cases(one, several, cases):
    for case in cases:
        alone, shared = (json.loads((folder / f"{case}.json").read_text()) for folder in (one, several))
        assert shared["equal"], case  # all processes end with the same bits
        assert shared["drawn"] == alone["drawn"], case
        assert shared["losses"] == pytest.approx(alone["losses"], rel=1e-5), case
        before, after = (load_file(folder / f"{case}.safetensors") for folder in (one, several))
        assert before.keys() == after.keys()
        for group in {name.rpartition("/")[0] for name in before if not name.endswith("/step")}:
            if group.startswith(("model", "ema")):
                mine = [name for name in before if name.startswith(f"{group}/")]
                assert distance(*({n: t[n] for n in mine} for t in (before, after))) < 1e-5, (case, group)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_draw_what_one_draws_and_learn_what_one_learns(tmp_path):
    """Noise, times, flips and labels are the same bits; losses and weights are equal up to rounding."""
    train_cases(tmp_path / "one", 6, *SOME)
    check_cases(tmp_path / "one", launch_cases(tmp_path / "two", 2, 6, SOME), SOME)


def small_run(folder, *options, name="luz"):
    """The words of a training of 40 updates."""
    recipe = folder / "small.yaml"
    recipe.write_text(write_recipe(make_small(name)))
    return ["-m", "ddim", "train", "--recipe", recipe, "--no-compile", *options]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_trains_samples_and_goes_on_with_another_number_of_processes(tmp_path, capsys):
    run = tmp_path / "run"
    done = launch(2, *small_run(tmp_path, "--out", run, "--images", "160"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{run}\n"
    assert done.stderr.count("run folder") == 1
    document = json.loads((run / "run.json").read_text())
    assert document["processes"] == {"count": 2, "backend": "gloo"}
    words, files = ["sample", run, "-n", "40", "--steps", "2", "--film", "--out"], []
    assert launch(2, "-m", "ddim", *words, tmp_path / "two").returncode == 0
    assert main([*map(str, words), str(tmp_path / "one")]) == 0
    for out in (tmp_path / "one", tmp_path / "two"):
        files.append(
            {path.name: path.read_bytes() for path in out.iterdir() if path.name not in ("record.json", LOCK)}
        )
    assert len(files[0]) == 42
    assert files[0] == files[1]
    # The rest runs in the process of this test.
    assert main([*map(str, small_run(tmp_path, "--out", run, "--images", "320", "--resume")[2:])]) == 0
    assert "1 process instead of 2: the same images and noise" in capsys.readouterr().err
    change = json.loads((run / "run.json").read_text())["processes_changed"]
    assert [entry["to"]["count"] for entry in change] == [1]
    # 40 updates, two validations, and the change of processes.
    assert len(tiny.metrics(run)) == 43


STOPPED = """
import os, sys
os.environ["DDIM_CACHE"] = f"{sys.argv[1]}-{os.environ['RANK']}"
sys.path.insert(0, sys.argv[2])
import ddim, tiny, torch

class Stop(ddim.Callback):
    def on_start(self, training, folder):
        training.stop()

images = torch.from_numpy(tiny.images().pixels).permute(0, 3, 1, 2)
options = {"out": sys.argv[1], "machine": tiny.MACHINE, "progress": False}
run = ddim.train(images, tiny.BASE, callbacks=[Stop()], **options)
ddim.resume(run, data=images, progress=False)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_callback_stops_all_processes_and_all_get_the_images_again(tmp_path):
    """Each process has a cache of its own, as on another machine."""
    (tmp_path / "script.py").write_text(STOPPED)
    done = launch(2, tmp_path / "script.py", tmp_path / "run", SUPPORT)
    assert done.returncode == 0, done.stderr
    assert "are gone" not in done.stderr
    images = torch.from_numpy(tiny.images().pixels).permute(0, 3, 1, 2)
    alone, shared = (
        [line["loss"] for line in tiny.metrics(folder) if "loss" in line]
        for folder in (tiny.train(tiny.BASE, tmp_path / "one", images), tmp_path / "run")
    )
    assert shared == pytest.approx(alone, rel=1e-4)


BUSY = """
import sys, time
from datetime import timedelta
from ddim.nn import processes
processes.EXCHANGE_LIMIT = timedelta(seconds=3)
with processes.join_processes() as group:
    for busy in range(2):
        time.sleep(5 if busy == group.rank else 0)
        found = group.gather(group.rank) if busy else group.broadcast("of the lead" if group.leads else None)
        sys.stdout.write(f"{found}\\n")
    try:
        if not group.leads:
            time.sleep(1)
            raise RuntimeError("out of flowers")
        group.gather(0)
    except processes.OtherProcessFailed as error:
        sys.stdout.write(f"{error}\\n")
        raise
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_processes_wait_for_a_busy_one_and_not_for_a_failed_one(tmp_path):
    (tmp_path / "script.py").write_text(BUSY)
    done = launch(2, tmp_path / "script.py")
    *found, failure = sorted(done.stdout.splitlines())
    assert found == ["[0, 1]"] * 2 + ["of the lead"] * 2, done.stderr
    assert failure.startswith("process 1 (on ")
    assert failure.endswith("failed: out of flowers")


@pytest.mark.parametrize(("batch", "accumulate"), [(9, 1), (12, 2)])
def test_a_batch_that_cannot_be_shared_is_refused(batch, accumulate):
    recipe = tiny.recipe(optim__batch=batch, optim__accumulate=accumulate)
    check_processes(recipe, Processes())
    with pytest.raises(
        UserError, match=f"optim.batch {batch} must be a multiple of the number of processes 4"
    ):
        check_processes(recipe, Processes(count=4))
    check_processes(tiny.recipe(optim__batch=4 * batch, optim__accumulate=accumulate), Processes(count=4))


@pytest.mark.parametrize(
    ("local_count", "threads", "expected"),
    # torchrun sets one thread. More threads were set by the user, for each process.
    [(2, 1, 4), (2, 3, 3), (2, 8, 4), (3, 1, 2), (16, 1, 1), (1, 1, 1), (1, 16, 16)],
)
def test_the_processes_of_a_machine_divide_its_eight_cores(local_count, threads, expected, monkeypatch):
    monkeypatch.setattr(processes, "count_physical", lambda: 8)
    assert processes._divide_cores(local_count, threads) == expected


THREADS = """
import sys, torch
from ddim.nn import processes, runtime

processes.count_physical = lambda: 6
runtime.count_allowed = lambda: 12
with processes.join_processes():
    with runtime.Runtime(threads=5):
        cores = runtime.count_cores()
    inside = torch.get_num_threads()
sys.stdout.write(f"{cores} {inside} {torch.get_num_threads()}\\n")
"""


@pytest.mark.slow
def test_torchrun_leaves_each_process_its_cores_inside_the_block_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "script.py").write_text(THREADS)
    done = launch(2, tmp_path / "script.py")
    assert done.stdout == "3 3 1\n" * 2, done.stderr


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("cuda:nccl", r'got cuda:nccl: create it .*init_process_group\("cpu:gloo,cuda:nccl"\)'),
        ("cpu:gloo,cuda:nccl", "the processes meet"),
    ],
)
def test_a_process_group_without_the_cpu_is_refused_before_the_processes_meet(backend, said, monkeypatch):
    def meet(*given):
        raise UserError("the processes meet")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(processes, "meet", meet)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda: backend)
    with pytest.raises(UserError, match=said), processes.join_processes():
        pass


@pytest.mark.parametrize(
    ("count", "device", "expected"), [(1, "cuda", None), (2, "cuda:1", "nccl"), (2, "cpu", "gloo")]
)
def test_the_record_names_what_adds_the_gradients(count, device, expected, monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda: "cpu:gloo,cuda:nccl")
    assert describe_processes(Processes(count=count), device) == {"count": count, "backend": expected}


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_each_process_has_its_own_gpu(device, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda: "cpu:gloo,cuda:nccl")
    start, document = Start(tmp_path, (), 5, time.monotonic(), True), {"processes": {"count": 2}}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    pair = Processes(1, 2, 1, 2)
    assert adopt_processes(document, Runtime(device), start, pair) == (Runtime("cuda"), "")
    assert adopt_processes({}, Runtime(device), start, Processes()) == (Runtime(device), "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="2 processes cannot train on 1 GPU: start one process for each GPU"):
        adopt_processes(document, Runtime(device), start, pair)
    assert adopt_processes(document, Runtime("cpu"), start, pair) == (Runtime("cpu"), "")


def test_a_run_is_loaded_onto_the_gpu_of_each_process(monkeypatch):
    monkeypatch.setattr(pipeline, "find_device", lambda wanted: wanted)
    assert pipeline._runtime(Runtime("cuda:1"), (64, 64), None, None).device == "cuda:1"
    monkeypatch.setattr(pipeline, "current_processes", lambda: Processes(1, 2, 1, 2))
    assert pipeline._runtime(Runtime("cuda:1"), (64, 64), None, None).device == "cuda"
    assert pipeline._runtime(Runtime("cuda"), (64, 64), "cuda:0", None).device == "cuda"


def test_several_processes_need_no_gpu_with_the_number_in_the_record(monkeypatch):
    def one_gpu(wanted):
        if wanted not in ("cpu", "cuda", "cuda:0"):
            raise UserError("device must be one of auto, cpu, cuda, cuda:0 on this machine")
        return "cuda" if wanted == "auto" else wanted

    monkeypatch.setattr(pipeline, "find_device", one_gpu)
    with pytest.raises(UserError, match="device must be one of"):
        pipeline._runtime(Runtime("cpu"), (64, 64), "cuda:3", None)
    monkeypatch.setattr(pipeline, "current_processes", lambda: Processes(1, 2, 1, 2))
    assert pipeline._runtime(Runtime("cuda:3"), (64, 64), "cuda:3", None).device == "cuda"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_batch_that_cannot_be_shared_is_refused_before_images_are_decoded(tmp_path):
    cache = tmp_path / "cache"
    words = small_run(tmp_path, "--out", tmp_path / "run", "--optim.batch", "9")
    done = launch(2, *words, env={**os.environ, "DDIM_CACHE": str(cache)})
    assert done.returncode == 1
    ours = [line for line in done.stderr.splitlines() if line.startswith("ddim: ")]
    assert len(ours) == 1
    assert "optim.batch 9 must be a multiple of the number of processes 2" in ours[0]
    assert not (tmp_path / "run").exists()
    assert not cache.exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("processes", "compiled"), [(4, False), (2, True)])
def test_every_recipe_learns_the_same_in_several_processes(processes, compiled, tmp_path):
    """In more than two epochs. Compiled, it is a network of a few kernels: recipes would take minutes."""
    cases = [name for name in CASES if name.startswith("compiled") == compiled]
    one = launch_cases(tmp_path / "one", 1, 10, cases)
    check_cases(one, launch_cases(tmp_path / "several", processes, 10, cases), cases)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["frozen", "killed"])
def test_a_process_that_is_lost_is_named_and_the_other_ends(number, rank, tmp_path, monkeypatch):
    monkeypatch.setenv("DDIM_PATIENCE", "5")
    (tmp_path / "small.yaml").write_text(write_recipe(make_small("luz")))
    run = Launch(tmp_path, tmp_path / "run", "--images", "100000")
    run.wait_for_steps(random.Random(0))
    lost, other = (run.rank(k) for k in (rank, 1 - rank))
    os.kill(lost, number)
    began = time.monotonic()
    while is_running(other):
        assert time.monotonic() - began < 30
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.kill(lost, signal.SIGKILL)
    run.process.wait()
    text = (tmp_path / "run.txt").read_text()
    ours = [line for line in text.splitlines() if line.startswith("ddim: ")]
    if number == signal.SIGSTOP:
        assert len(ours) == 1
        assert f"process {rank} (on " in ours[0]
        assert "has not answered for 5 s" in ours[0]
    else:
        # torchrun sees it at once, and may stop the other process before that can say it.
        assert f"Signal 9 (SIGKILL) received by PID {lost}" in text


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("memory", "process 1: the memory is full"),
        ("memory of process 0", "ddim: the memory is full"),
        ("disk", "guide is full: step-000000010 was not written"),
        ("images", "the images of process"),
    ],
)
def test_a_fault_of_one_process_ends_all_with_one_sentence(fault, said, tmp_path):
    recipe = tmp_path / "small.yaml"
    recipe.write_text(write_recipe(make_small("luz")))
    done = launch(2, SUPPORT / "faulty_process.py", fault, recipe, tmp_path / "run")
    assert done.returncode == 1
    ours = [line for line in done.stderr.splitlines() if line.startswith("ddim: ")]
    assert len(ours) == 1
    assert said in ours[0]


def is_running(pid):
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "zombie" not in status.read_text()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_whose_processes_are_killed_goes_on_by_itself_to_the_same_bits(tmp_path):
    words = [SUPPORT / "kill_processes.py", tmp_path, "--kills", "1", "--agents", "1"]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
