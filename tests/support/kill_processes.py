"""A training in two processes, killed with SIGKILL again and again.

`python tests/support/kill_processes.py FOLDER [--kills 50] [--seed 0]` trains twice: once undisturbed, and
once under `torchrun --max-restarts` while processes are killed at random times, 400 steps each (--steps). It
prints a report as JSON, and exits with 1 unless both end with the same bits.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from ddim.recipe.codec import override, write_recipe
from kill import different
from small_recipes import make_small


def read_command(pid):
    """The command line of a process; "torch" if it has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b"torch"


class Launch:
    """A training in two processes under torchrun."""

    def __init__(self, home, out, *options, restarts=0):
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts"]
        words += [str(restarts), "-m", "ddim", "train", "--recipe", str(home / "small.yaml"), "--no-compile"]
        words += ["--out", str(out), *options]
        self.out = out
        with (home / f"{out.name}.txt").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, *words], stdout=log, stderr=log, start_new_session=True
            )

    def over(self):
        """Whether torchrun has ended."""
        return self.process.poll() is not None

    def workers(self):
        """The process ids of the two processes; fewer while they start."""
        found = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        children = [int(child) for file in found for child in file.read_text().split()]
        return [pid for pid in children if b"torch" not in read_command(pid)]

    def wait_for_steps(self, draw):
        """Wait until new steps are logged, and then for a random time."""
        log = self.out / "metrics.jsonl"
        before = log.stat().st_mtime if log.exists() else 0.0
        while not self.over() and not (log.exists() and log.stat().st_mtime > before):
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 2))


def kill_workers(home, kills, draw):
    """Kill a random process again and again while torchrun starts them anew; returns the number of kills."""
    launch, done = Launch(home, home / "restarted", restarts=kills), 0
    while done < kills and not launch.over():
        # Some die while they start.
        time.sleep(draw.uniform(0, 6)) if draw.random() < 0.25 else launch.wait_for_steps(draw)
        if workers := launch.workers():
            with suppress(ProcessLookupError):
                os.kill(draw.choice(workers), signal.SIGKILL)
                done += 1
            while not launch.over() and set(launch.workers()) & set(workers):
                time.sleep(0.02)
    if launch.process.wait():
        raise RuntimeError((home / "restarted.txt").read_text()[-3000:])
    return done


def main():
    """Parse, kill, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    home, draw = args.folder, random.Random(args.seed)
    home.mkdir(parents=True, exist_ok=True)
    fields = {"images": 8 * args.steps, "report.checkpoint": 0.2, "report.events": 3}
    (home / "small.yaml").write_text(write_recipe(override(make_small("luz"), fields)))
    if Launch(home, home / "whole").process.wait():
        raise RuntimeError((home / "whole.txt").read_text()[-3000:])
    report = {"kills": kill_workers(home, args.kills, draw)}
    report["different"] = different(home / "whole", home / "restarted")
    print(json.dumps(report))
    return bool(report["different"])


if __name__ == "__main__":
    sys.exit(main())
