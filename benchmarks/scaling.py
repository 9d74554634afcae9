"""Measure the training speed against the number of processes, as a table.

    python benchmarks/scaling.py [--processes 1,2] [--recipe fast] [--batch B] [--seconds 40] [--rounds 3]

Each row is a training of `blossoms:1024` with one of the numbers of processes. Several processes are started
by torchrun on this machine and divide its GPUs or cores; a single process is the plain command. The trainings
of a round follow each other, and ratios are medians over the rounds. A speed is read from the log of the run,
without compilation.

    images/s     median speed of training, without validations
    ratio        against the first row, round by round
    efficiency   ratio / processes, times the processes of the first row. If the first row has 1 process, the
                 best value is 1 on GPUs, and 1 / processes on a CPU, where all rows use the same cores
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ddim.runs.log import read_metrics

WARM_UP = 4
"""Lines of the log that are left out: the network is compiled in the first steps."""


def command(processes: int, out: Path, args: argparse.Namespace) -> list[str]:
    """Return the command of a training in a number of processes, as a list of words."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    words = [sys.executable, "-m", *(launcher if processes > 1 else []), "ddim", "train", "blossoms:1024"]
    words += ["--recipe", args.recipe, "--images", "100000000", "--out", str(out), "--report.log", "1"]
    words += ["--report.checkpoint", "1e9", *args.options]
    return words if args.batch is None else [*words, "--optim.batch", str(args.batch)]


def measure_pace(processes: int, out: Path, args: argparse.Namespace) -> float:
    """Train in a number of processes for some seconds, and return the images per second."""
    with out.with_suffix(".txt").open("w") as log:
        process = subprocess.Popen(
            command(processes, out, args), stdout=log, stderr=log, start_new_session=True
        )
    try:
        lines: list[dict[str, float]] = []
        while len(lines) <= WARM_UP or lines[-1]["time"] - lines[WARM_UP]["time"] < args.seconds:
            if process.poll() is not None:
                raise SystemExit(out.with_suffix(".txt").read_text())
            time.sleep(0.5)
            lines = [line for line in read_metrics(out) if "loss" in line] if out.exists() else []
        first, last = lines[WARM_UP], lines[-1]
        return (last["images"] - first["images"]) / (last["time"] - first["time"])
    finally:
        # torchrun ends its processes, which are in sessions of their own.
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", default="1,2", help="numbers of processes (default: 1,2)")
    parser.add_argument("--recipe", default="fast", help="recipe of the runs (default: fast)")
    parser.add_argument("--batch", type=int, help="images per step of the whole run (default: the recipe's)")
    parser.add_argument("--seconds", type=float, default=40, help="of a measurement (default: 40)")
    parser.add_argument("--rounds", type=int, default=3, help="repeats (default: 3)")
    parser.add_argument("options", nargs="*", help="further options of ddim train, after --")
    args = parser.parse_args()
    counts = [int(text) for text in args.processes.split(",")]
    paces: dict[int, list[float]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as folder:
        for k in range(args.rounds):
            for count in counts:
                paces[count].append(measure_pace(count, Path(folder) / f"{k}-{count}", args))
    print("processes  images/s  ratio  efficiency")
    for count in counts:
        ratio = statistics.median(a / b for a, b in zip(paces[count], paces[counts[0]], strict=True))
        efficiency = ratio / count * counts[0]
        print(f"{count:9d}  {statistics.median(paces[count]):8.1f}  {ratio:5.2f}  {efficiency:10.2f}")


if __name__ == "__main__":
    main()
