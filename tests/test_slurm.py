"""The job script of docs/howto/machines.md, with stand-ins for the two programs of Slurm that it calls."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny
from ddim.recipe.codec import override, write_recipe
from small_recipes import make_small

PAGE = Path(__file__).parent.parent / "docs" / "howto" / "machines.md"
# srun runs the command once on each node, and passes the signal at the end of the job to all of them.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for node in 0 1; do SLURM_NODEID=$node "$@" & pids+=($!); done
trap 'kill -TERM "${pids[@]}"' TERM
status=0
for pid in "${pids[@]}"; do
    while wait "$pid"; code=$?; kill -0 "$pid" 2>/dev/null; do :; done
    ((code > status)) && status=$code
done
exit $status
"""
SCONTROL = """#!/bin/bash
[[ "$*" == "show hostnames node[1-2]" ]] && printf 'localhost\\nnode2\\n'
"""
STEPS = 300


def read_script():
    """Return the job script of the page."""
    (script,) = re.findall(r"^```\n(#!/bin/bash\n.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return script


def test_the_job_script_asks_for_one_launcher_a_node_and_is_valid_bash():
    script = read_script()
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    asked = [word for line in script.splitlines() if line.startswith("#SBATCH ") for word in line.split()[1:]]
    assert "--ntasks-per-node=1" in asked
    # torchrun gets the signal some seconds before the job ends; it must wait for its processes for less.
    (before,) = (int(word.partition("@")[2]) for word in asked if word.startswith("--signal=TERM@"))
    assert int(re.search(r"--shutdown-timeout (\d+)", script).group(1)) < before


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A function that starts the job script for two nodes, with one process each, and returns its process."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    # torchrun need not be installed beside this Python.
    launcher = f'#!/bin/bash\nexec {shlex.quote(sys.executable)} -m torch.distributed.run "$@"\n'
    (programs / "torchrun").write_text(launcher)
    (programs / "torchrun").chmod(0o755)
    tiny.write_grays(tmp_path / "photos", [5 * k for k in range(40)])
    recipe = override(make_small("luz"), {"images": 8 * STEPS})
    (tmp_path / "small.yaml").write_text(write_recipe(recipe))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = read_script()
    for old, new in {
        "/shared/": f"{tmp_path}/",
        "--nproc-per-node=gpu": "--nproc-per-node=1",
        ":29500": f":{port}",
        "--resume": f"--resume --recipe {tmp_path}/small.yaml --no-compile",
    }.items():
        assert old in script
        script = script.replace(old, new)
    (tmp_path / "job.sh").write_text(script)
    slurm = {"JOB_NODELIST": "node[1-2]", "NNODES": "2", "JOB_ID": "17", "CPUS_PER_TASK": "1"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def start(log):
        with log.open("w") as file:
            return subprocess.Popen(
                ["bash", tmp_path / "job.sh"], stdout=file, stderr=file, start_new_session=True
            )

    return start


def find_srun(process):
    """Return the process id of the stand-in srun, a child of the job script."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (found,) = (pid for pid in children if "srun" in Path(f"/proc/{pid}/cmdline").read_text())
    return int(found)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_job_script_starts_a_run_and_continues_it_in_the_next_job(job, tmp_path):
    run, first, second = tmp_path / "runs" / "photos", tmp_path / "first.txt", tmp_path / "second.txt"
    process = job(first)
    end = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() or len(tiny.metrics(run)) < 5:
        assert process.poll() is None, first.read_text()
        assert time.monotonic() < end, first.read_text()
        time.sleep(0.2)
    # Near the end of its time, Slurm signals the steps of a job, not its script.
    os.kill(find_srun(process), signal.SIGTERM)
    assert process.wait(120) != 0
    saved = tiny.metrics(run)[-1]["images"]
    assert 0 < saved < 8 * STEPS
    process = job(second)
    assert process.wait(200) == 0, second.read_text()
    seen = [line["images"] for line in tiny.metrics(run) if "loss" in line]
    assert seen == sorted(set(seen))
    assert seen[-1] == 8 * STEPS
    assert seen.index(saved) < len(seen) - 1
    # The launcher itself ends with a traceback after a signal.
    assert first.read_text().count("ddim: stopped and saved") == 1
    assert f"continued at {saved} images" in second.read_text()
    assert "Traceback" not in second.read_text()
