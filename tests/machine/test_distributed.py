"""What processes of torchrun exchange, and how they end when one of them fails."""

import json
import os
import time
from pathlib import Path

import pytest

from ddim.machine.distributed import Processes, current_processes, join_processes
from in_processes import launch

START = """
import json, os, signal, sys, time
from pathlib import Path
import torch
from ddim.machine.distributed import Processes, act_as, current_processes, join_processes
from ddim.machine.runtime import Runtime, count_cores
from ddim.machine.signals import Stopped
folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
"""


@pytest.fixture
def run(tmp_path):
    """A function that runs lines of Python in processes of torchrun; returns the finished launcher."""

    def run(lines, processes=2, **variables):
        (tmp_path / "script.py").write_text(START + lines)
        env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | variables
        return launch(processes, tmp_path / "script.py", tmp_path, env=env)

    return run


def test_one_process_exchanges_with_itself():
    with join_processes() as alone:
        assert alone == Processes() == current_processes()
        assert (alone.broadcast(3), alone.interleave([3]), alone.highest(3, 1)) == (3, [3], [3, 1])
        assert alone.interleave(alone.share([1, 2, 3])) == [1, 2, 3]
        assert alone.local_first(lambda: 3) == 3
        assert alone.assign_device("cuda:1") == "cuda:1"
        assert Processes(1, 2).assign_device("cuda:1") == "cuda"


EXCHANGES = """
def work():
    (folder / f"{rank}.txt").touch()
    return sorted(path.name for path in folder.glob("?.txt"))

for turn in range(2):
    before = torch.get_num_threads()
    with join_processes() as group:
        assert join_processes().__enter__() is group
        values = [group.broadcast("lead" if group.leads else None), group.interleave([rank])]
        values += [group.highest(rank, -rank), group.interleave(group.share(range(5)))]
        with act_as(Processes()):
            values += [current_processes().interleave([rank]) == [rank]]
        with Runtime(threads=5):
            cores = count_cores()
        values += [cores == torch.get_num_threads(), before == torch.get_num_threads() or cores > 1]
        if turn == 0:
            first = group.local_first(work)
            assert first == ["0.txt"] if rank == 0 else "0.txt" in first
    assert before == torch.get_num_threads() and current_processes() == Processes()
    (folder / f"{rank}-{turn}.json").write_text(json.dumps(values))
"""


@pytest.mark.slow
def test_processes_exchange_values_and_join_twice(run, tmp_path):

    done = run(EXCHANGES, 3)
    assert done.returncode == 0, done.stderr
    values = {json.dumps(json.loads(path.read_text())) for path in tmp_path.glob("*.json")}
    expected = ["lead", [0, 1, 2], [2, 0], [0, 1, 2, 3, 4], True, True, True]
    assert values == {json.dumps(expected)}


FAILURES = """
try:
    with join_processes() as group:
        group.highest(0)
        if rank == {rank}:
            raise {error}
        group.highest(0)
except BaseException as error:
    if rank == 0:
        print(f"{{type(error).__name__}}: {{error}} {{getattr(error, 'exit_code', '')}}", flush=True)
    raise
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "error", "said"),
    [
        (1, "ValueError('out of flowers')", "OtherProcessFailed: process 1: out of flowers 1"),
        (1, "MemoryError", "OtherProcessFailed: process 1: the memory is full"),
        (1, "Stopped(signal.SIGTERM)", "OtherProcessFailed: process 1: stopped 143"),
        (0, "ValueError('out of flowers')", "ValueError: out of flowers"),
    ],
)
def test_process_0_says_why_another_process_failed(rank, error, said, run):
    done = run(FAILURES.format(rank=rank, error=error))
    assert done.returncode == 1
    assert done.stdout.startswith(said), done.stderr


LOST = """
(folder / str(rank)).write_text(str(os.getpid()))
with join_processes() as group:
    if rank == {rank}:
        os.kill(os.getpid(), signal.{signal})
    group.highest(0)
    group.highest(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "rank"), [("SIGKILL", 0), ("SIGKILL", 1), ("SIGSTOP", 0)])
def test_a_process_that_is_lost_ends_the_command(number, rank, run, tmp_path):
    """A frozen process ends it when the time of an exchange is over."""
    began = time.monotonic()
    patience = {"DDIM_PATIENCE": "5", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "5"}
    done = run(LOST.format(rank=rank, signal=number), **patience)
    assert done.returncode == 1
    assert time.monotonic() - began < 90
    for k in range(2):
        assert not Path("/proc", (tmp_path / str(k)).read_text(), "fd").exists()


RESTARTED = """
with join_processes() as group:
    group.highest(0)
    if rank == {rank} and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    group.highest(0)
    (folder / f"done-{{rank}}").touch()
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_restarted_processes_find_each_other(rank, run, tmp_path):
    """The store of torchrun still has the addresses of the killed processes."""
    (tmp_path / "script.py").write_text(START + RESTARTED.format(rank=rank))
    done = launch(2, "--max-restarts", "1", tmp_path / "script.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len([*tmp_path.glob("done-*")]) == 2
