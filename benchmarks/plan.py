"""Plan six short trainings, run them, and compare the planned numbers of images with those seen.

    python benchmarks/plan.py FOLDER [--data flowers64.zip] [--minutes 3] [--settings 1,4]

Run it on an idle machine. The six settings are 32 and 64 pixels, each with three networks: `fast`, `fast`
with two thirds of its channels, and `flow`. Each setting is planned by `ddim plan --minutes M` and then
trained by `ddim train --minutes M` with the same options. The goal is that the planned images are within
15 % of the images seen. With the defaults the benchmark takes about 25 minutes.
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
GOAL = 0.15
"""The largest relative difference between plan and training."""


def run(*words: str) -> str:
    """Run a command of ddim and return its standard output."""
    done = subprocess.run([*DDIM, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def compare(args: argparse.Namespace, name: str) -> float:
    """Plan and train one setting, print a line, and return the relative difference of their images."""
    options, folder = SETTINGS[name], args.folder / name.replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    planned = json.loads(run("plan", args.data, "--minutes", args.minutes, "--json", *options))
    began = time.monotonic()
    run("train", args.data, "--minutes", args.minutes, "--out", str(folder), *options)
    minutes = (time.monotonic() - began) / 60
    images, seen = planned["rows"][0]["images"], read_metrics(folder)[-1]["images"]
    wrong = images / seen - 1
    print(f"{name:<10} {images:>8,} / {seen:<8,} {wrong:+6.1%}   {minutes:.1f} min", flush=True)
    return wrong


def main() -> None:
    """Compare the settings, and print how many meet the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "folder", type=Path, help="a folder for the runs; those of an earlier call are removed"
    )
    parser.add_argument("--data", default="blossoms:2000")
    parser.add_argument("--minutes", default="3")
    parser.add_argument("--settings", default="1,2,3,4,5,6", help="numbers of the settings, from 1")
    args = parser.parse_args()
    names = [list(SETTINGS)[int(number) - 1] for number in args.settings.split(",")]
    print("setting      images, planned / seen", flush=True)
    wrong = [compare(args, name) for name in names]
    print(f"images within {GOAL:.0%}: {sum(abs(each) <= GOAL for each in wrong)} of {len(wrong)}")


if __name__ == "__main__":
    main()
