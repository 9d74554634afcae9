"""Plan six short trainings, run them, and compare the planned images and errors with the measured ones.

    python benchmarks/plan.py FOLDER [--data flowers64.zip] [--minutes 3] [--before 2,5] [--settings 1,4]

Run it on an idle machine. The six settings are 32 and 64 pixels, each with three networks: `fast`, `fast`
with two thirds of its channels, and `flow`. The benchmark runs three steps for each setting:

    1. trainings of `--before` minutes; the plan takes the expected errors from them ("your runs")
    2. `ddim plan --minutes M`
    3. `ddim train --minutes M` with the same options, in another folder

Goals: the planned images are within 15 % of the images seen, and the planned validation errors within 10 %.
With the defaults the benchmark takes about an hour. With `--minutes 0.3 --before 0.2,0.5 --data blossoms:600`
it takes about ten minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from ddim.runs.log import read_metrics

DDIM = [sys.executable, "-m", "ddim"]
RECIPES = {"fast": [], "narrow": ["--net.widths", "16,32,64,128"], "flow": ["--recipe", "flow"]}
SETTINGS = {
    f"{name} {size}": [*options, "--size", str(size)]
    for size in (32, 64)
    for name, options in RECIPES.items()
}
IMAGES, ERROR = 0.15, 0.10
"""The goals: the largest relative differences between plan and training."""


def run(*words: str) -> str:
    """Run a command of ddim and return its standard output."""
    done = subprocess.run([*DDIM, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def train(data: str, minutes: str, options: list[str], folder: Path) -> tuple[int, float, float]:
    """Train a run; return the number of images seen, the last validation error and the minutes it took."""
    began = time.monotonic()
    run("train", data, "--minutes", minutes, "--out", str(folder), *options)
    lines = [line for line in read_metrics(folder) if line.get("image_mae") is not None]
    return lines[-1]["images"], lines[-1]["image_mae"], (time.monotonic() - began) / 60


def compare(args: argparse.Namespace, name: str) -> tuple[float, float | None]:
    """Plan and train one setting, and print a line.

    Return the relative differences of images and of error between plan and training. The difference of the
    error is None if the plan has no error.
    """
    options, home = SETTINGS[name], args.folder / name.replace(" ", "-")
    shutil.rmtree(home, ignore_errors=True)
    for minutes in filter(None, args.before.split(",")):
        train(args.data, minutes, options, home / "before" / minutes)
    found = json.loads(
        run("plan", args.data, "--minutes", args.minutes, "--runs", str(home / "before"), "--json", *options)
    )
    row = found["budgets"][0]
    images, error, took = train(args.data, args.minutes, options, home / "run")
    wrong, expected = row["images"] / images - 1, row["error_of_your_runs"]
    missed = None if expected is None else expected / error - 1
    shown = "not measured" if expected is None else f"{expected:.3f} / {error:.3f} {missed:+6.1%}"
    print(
        f"{name:<10} {row['images']:>8,} / {images:<8,} {wrong:+6.1%}   {shown}   {took:.1f} min", flush=True
    )
    return wrong, missed


def main() -> None:
    """Compare the settings, and print how many meet both goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "folder", type=Path, help="a folder for the runs; those of an earlier call are removed"
    )
    parser.add_argument("--data", default="blossoms:2000")
    parser.add_argument("--minutes", default="3")
    parser.add_argument("--before", default="2,5", help="minutes of the runs that give the errors")
    parser.add_argument("--settings", default="1,2,3,4,5,6", help="numbers of the settings, from 1")
    args = parser.parse_args()
    names = [list(SETTINGS)[int(number) - 1] for number in args.settings.split(",")]
    print("setting      images, planned / seen      error, planned / reached", flush=True)
    found = [compare(args, name) for name in names]
    images = sum(abs(wrong) <= IMAGES for wrong, _ in found)
    errors = sum(missed is not None and abs(missed) <= ERROR for _, missed in found)
    print(f"images within {IMAGES:.0%}: {images} of {len(found)}; errors within {ERROR:.0%}: {errors}")


if __name__ == "__main__":
    main()
