"""`ddim train` killed with SIGKILL again and again, and resumed each time.

`python tests/kill.py FOLDER [--kills 20] [--saving 5] [--seed 0] -- OPTIONS OF ddim train ...` runs it once
undisturbed and once killed, both in FOLDER, and prints a report as JSON; it exits with 1 unless both ended with
the same bits. It is a script because it kills processes for minutes.
"""

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from ddim import checkpoint

COMMAND = [sys.executable, "-c", "import sys; from ddim.cli import main; sys.exit(main())", "train"]


@dataclass
class Report:
    """What happened: kills, how many of them in a save, at which steps; and what was left different."""

    kills: int = 0
    saving: int = 0
    starting: int = 0
    resumed_at: list[int] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    seconds: float = 0.0


def torture(folder, options, kills, saving, seed=0):
    """Kill a run `kills` times, at least `saving` of them while a checkpoint is written; a `Report`.

    `options` are those of `ddim train` without --out. RuntimeError where the run ends too soon or fails.
    """
    began, draw, report = time.monotonic(), random.Random(seed), Report()
    whole, killed = folder / "whole", folder / "killed"
    _finish(whole, options)
    while report.kills < kills:
        aim = report.saving < saving
        process = _start(killed, options)
        _wait_and_kill(process, killed / "checkpoints", draw, aim, report)
        report.kills += 1
        # What the dead process left half-written is the proof that it died in a save.
        report.saving += any((killed / "checkpoints").glob(".tmp-*"))
        newest = checkpoint.newest(killed / "checkpoints")
        report.resumed_at.append(int(newest.name[5:]) if newest else 0)
    _finish(killed, options)
    report.different = _different(whole, killed)
    report.seconds = round(time.monotonic() - began, 1)
    return report


def _start(run, options):
    words = [*options, "--out", str(run)]
    words += ["--resume"] if run.exists() else []
    process = subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, text=True)
    process.said = []
    process.training = threading.Event()

    def read():
        for line in process.stderr:
            process.said.append(line)
            if line.startswith("run folder"):
                process.training.set()

    process.reader = threading.Thread(target=read, daemon=True)
    process.reader.start()
    return process


def _wait_and_kill(process, checkpoints, draw, aim, report):
    # One in five dies while it starts: reading, compiling, or before its first step.
    if not aim and draw.random() < 0.2:
        report.starting += 1
        process.training.wait(draw.uniform(0, 6))
    else:
        while not process.training.wait(0.1) and process.poll() is None:
            pass
        time.sleep(draw.uniform(0, 1.5))
        while aim and process.poll() is None and not any(checkpoints.glob(".tmp-*")):
            pass
        time.sleep(draw.uniform(0, 0.01) if aim else 0)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError(f"the run was over before it was killed: {''.join(process.said[-3:])}")
    process.reader.join()
    process.stderr.close()


def _finish(run, options):
    process = _start(run, options)
    if process.wait() != 0:
        raise RuntimeError("".join(process.said[-3:]))
    process.reader.join()
    process.stderr.close()


def _different(whole, killed):
    """Tensor files of the last checkpoint, the log without its times, and samples that are not equal."""
    one, other = (_contents(run) for run in (whole, killed))
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _contents(run):
    path = checkpoint.newest(run / "checkpoints")
    files = [*path.rglob("*.safetensors"), *(run / "samples").iterdir()]
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    log = [{name: value for name, value in line.items() if name != "time"} for line in lines]
    return {**found, "metrics.jsonl": log, "step": path.name}


def main():
    """Parse, torture, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--saving", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    args, options = parser.parse_args(words[:split]), words[split + 1 :]
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    report = torture(args.folder, options, args.kills, args.saving, args.seed)
    print(json.dumps(vars(report)))
    return 1 if report.different or report.saving < args.saving else 0


if __name__ == "__main__":
    sys.exit(main())
