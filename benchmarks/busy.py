"""Measure what other programs on the machine cost: images per second of default settings, idle and busy.

    python benchmarks/busy.py [--parts precision,train,sample,wait] [--seconds 40] [--rounds 3] [--others 2]

Run it on a machine where nothing else computes. "Busy" means that `--others` processes compute beside it,
each in a session of its own. Default settings are those of `ddim train` and `ddim sample` without options.

    precision   20 choices of the precision while the machine is busy, compared with those of an idle one
    train       one training: idle, then busy after `--settle` seconds, then idle again; and one that starts
                busy. Goal: busy / idle at least 1/3
    sample      `ddim sample RUN -n 64`, idle and busy, with brief spinning (the default), none and long
    wait        three trainings on an idle machine, which take turns: brief spinning, no spinning, and long
                spinning, the way of libgomp. Goal: median ratio of pairs at least 0.98. Else change
                `wait_briefly`

All four take about 50 minutes on two cores. A speed is read from the log of the run, without compilation.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ddim.machine.runtime import CoreMeter, choose_runtime, count_cores
from ddim.runs.log import read_metrics

DDIM = [sys.executable, "-m", "ddim"]
SPINNING = {"GOMP_SPINCOUNT": "300000"}
"""The number of turns that libgomp waits in a loop if nothing else is asked for."""
PASSIVE = {"OMP_WAIT_POLICY": "passive"}
"""With this setting, threads that wait sleep immediately."""


@contextmanager
def others(count: int) -> Generator[None]:
    """Let processes compute inside the block."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


class Run:
    """A training in a process of its own, a context manager; it is killed at the end."""

    def __init__(self, folder: Path, *options: str, recipe: str, **environment: str) -> None:
        self.folder = folder
        words = ["train", "blossoms:1024", "--recipe", recipe, "--images", "100000000", "--out", str(folder)]
        command = [*DDIM, *words, "--report.log", "2", "--report.checkpoint", "30", *options]
        with folder.with_suffix(".txt").open("w") as log:
            streams = {"stdout": log, "stderr": log, "start_new_session": True}
            self.process = subprocess.Popen(command, env={**os.environ, **environment}, **streams)

    def __enter__(self) -> Run:
        """Wait until the network is compiled and trains."""
        while len(self.lines()) < 3:
            if self.process.poll() is not None:
                raise SystemExit(self.folder.with_suffix(".txt").read_text())
            time.sleep(0.5)
        return self

    def __exit__(self, *error: object) -> None:
        """Kill the training."""
        self.process.kill()
        self.process.wait()

    def lines(self) -> list[dict[str, float]]:
        """Return the losses in the log so far."""
        found = read_metrics(self.folder) if (self.folder / "metrics.jsonl").exists() else []
        return [line for line in found if "loss" in line]

    def pace(self, seconds: float) -> float:
        """Wait while the run trains for some seconds, and return its images per second."""
        first = len(self.lines())
        time.sleep(seconds)
        # On a machine that is too busy, two lines may take longer than this.
        while len(self.lines()) < first + 2:
            time.sleep(0.5)
        before, after = self.lines()[first], self.lines()[-1]
        return (after["images"] - before["images"]) / (after["time"] - before["time"])

    def changes(self) -> str:
        """Return the numbers of threads that the log records."""
        numbers = [f"{line['threads']:g}" for line in read_metrics(self.folder) if "threads" in line]
        return f"threads {' -> '.join(numbers)}" if numbers else "threads as at the start"


def show(name: str, paces: list[float], first: list[float], note: str = "") -> None:
    """Print the median pace and the median of its ratios to the first row, pair by pair."""
    ratio = statistics.median(pace / other for pace, other in zip(paces, first, strict=True))
    print(f"  {name:<34} {statistics.median(paces):8.1f} images/s   {ratio:5.2f} of the first   {note}")


def measure_precision(args: argparse.Namespace) -> None:
    """Print how many of 20 choices of the precision on a busy machine equal the choice on an idle one."""
    idle = choose_runtime(compiling=False).precision
    with others(args.others):
        busy = [choose_runtime(compiling=False) for _ in range(20)]
    right = sum(runtime.precision == idle for runtime in busy)
    threads = sorted({runtime.threads for runtime in busy})
    print(f"precision: {right} of 20 choices on the busy machine are {idle}; threads {threads}", flush=True)


def measure_training(args: argparse.Namespace, home: Path) -> None:
    """Print the speed of default settings: idle, busy, idle again, and busy from the start."""
    rows: dict[str, list[float]] = {}
    notes: dict[str, str] = {}
    for k in range(args.rounds):
        with Run(home / f"train-{k}", recipe=args.recipe) as run:
            rows.setdefault("idle", []).append(run.pace(args.seconds))
            with others(args.others):
                time.sleep(args.settle)
                rows.setdefault("busy in the middle", []).append(run.pace(args.seconds))
            time.sleep(args.settle)
            rows.setdefault("idle again", []).append(run.pace(args.seconds))
            notes["busy in the middle"] = run.changes()
        with others(args.others), Run(home / f"busy-{k}", recipe=args.recipe) as run:
            rows.setdefault("busy from the start", []).append(run.pace(args.seconds))
            notes["busy from the start"] = run.changes()
    print(f"training, recipe {args.recipe}, default settings")
    for name, paces in rows.items():
        show(name, paces, rows["idle"], notes.get(name, ""))


def sampling_pace(run: Path, out: Path, **environment: str) -> float:
    """Sample 64 images in a process of its own; return the images per second of sampling."""
    command = [*DDIM, "sample", str(run), "-n", "64", "--out", str(out), "--json", "--quiet"]
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        start_new_session=True,
    )
    return 64 / json.loads(done.stdout)["seconds"]


def measure_sampling(args: argparse.Namespace, home: Path) -> None:
    """Print the speed of sampling with each way of waiting, idle and busy."""
    run = home / "sampled"
    threads = str(count_cores())
    command = [*DDIM, "train", "blossoms:1024", "--recipe", args.recipe, "--images", "64", "--no-compile"]
    options = ["--report.events", "1", "--report.validation_images", "1", "--threads", threads]
    subprocess.run([*command, *options, "--out", str(run), "--quiet"], check=True, capture_output=True)
    ways = {"brief spinning (the default)": {}, "no spinning": PASSIVE, "long spinning": SPINNING}
    rows: dict[str, list[float]] = {}
    for k in range(args.rounds):
        for state, count in (("idle", 0), ("busy", args.others)):
            for way, environment in ways.items():
                with others(count):
                    out = home / f"samples-{k}-{state}-{way.split()[0]}"
                    rows.setdefault(f"{state}, {way}", []).append(sampling_pace(run, out, **environment))
    print(f"sampling, recipe {args.recipe}, {threads} threads")
    for name, paces in rows.items():
        show(name, paces, next(iter(rows.values())))


def measure_waiting(args: argparse.Namespace, home: Path) -> None:
    """Print the speed of three trainings that take turns, each with another way of waiting."""
    fixed = ("--threads", str(count_cores()))
    runs = {
        "long spinning": Run(home / "spinning", *fixed, recipe=args.recipe, **SPINNING),
        "brief spinning (the default)": Run(home / "brief", *fixed, recipe=args.recipe),
        "no spinning": Run(home / "passive", *fixed, recipe=args.recipe, **PASSIVE),
    }
    rows: dict[str, list[float]] = {name: [] for name in runs}
    try:
        for run in runs.values():
            run.__enter__()
        for run in runs.values():
            os.killpg(run.process.pid, signal.SIGSTOP)
        for _ in range(2 * args.rounds):
            for name, run in runs.items():
                os.killpg(run.process.pid, signal.SIGCONT)
                time.sleep(2)
                rows[name].append(run.pace(args.seconds / 2))
                os.killpg(run.process.pid, signal.SIGSTOP)
    finally:
        for run in runs.values():
            run.__exit__()
    print(f"idle machine, recipe {args.recipe}, {fixed[1]} threads, in turn")
    for name, paces in rows.items():
        show(name, paces, next(iter(rows.values())))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--parts", default="precision,train,sample,wait", help="what to measure (default: all)"
    )
    parser.add_argument("--recipe", default="fast", help="recipe of the runs (default: fast)")
    parser.add_argument("--others", type=int, default=2, help="other processes that compute (default: 2)")
    parser.add_argument("--seconds", type=float, default=40, help="of a measurement (default: 40)")
    parser.add_argument(
        "--settle", type=float, default=90, help="seconds until threads fit a change of load (default: 90)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="repeats (default: 3)")
    args = parser.parse_args()
    # The processes choose as on the command line; nothing of this environment decides for them.
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"):
        os.environ.pop(name, None)
    meter = CoreMeter()
    time.sleep(2)
    print(f"{count_cores()} cores, of which other programs use {meter.others():.1f} now", flush=True)
    parts = args.parts.split(",")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        if "precision" in parts:
            measure_precision(args)
        for name, measure in (("train", measure_training), ("sample", measure_sampling)):
            if name in parts:
                measure(args, home)
                sys.stdout.flush()
        if "wait" in parts:
            measure_waiting(args, home)


if __name__ == "__main__":
    main()
