"""A training in two processes, killed with SIGKILL again and again.

`python tests/support/kill_processes.py FOLDER [--kills 50] [--steps 400]` trains twice: once undisturbed, and
once under `torchrun --max-restarts` while one process is killed at random times. It is a fault if both do not
end with the same bits.
"""

import random
import sys
import time
from contextlib import suppress

import psutil

from ddim.recipe.codec import override, write_recipe
from programmes import run_as_command
from small_recipes import make_small
from tiny import differing_files


class Launch:
    """A training in two processes under torchrun."""

    def __init__(self, home, out, restarts=0):
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts"]
        words += [str(restarts), "-m", "ddim", "train", "--recipe", str(home / "small.yaml"), "--no-compile"]
        self.out, self.log = out, home / f"{out.name}.txt"
        with self.log.open("w") as log:
            self.process = psutil.Popen([sys.executable, *words, "--out", str(out)], stdout=log, stderr=log)

    def over(self):
        """Whether torchrun has ended."""
        return self.process.poll() is not None

    def ends(self):
        """Wait for the end; RuntimeError unless all went well."""
        if self.process.wait():
            raise RuntimeError(self.log.read_text()[-3000:])

    def workers(self):
        """The two processes; fewer while they start."""
        with suppress(psutil.Error):
            return {each for each in self.process.children() if "train" in each.cmdline()}
        return set()

    def wait_for_steps(self, draw):
        """Wait until new steps are logged, and then for a random time."""
        log = self.out / "metrics.jsonl"
        before = log.stat().st_mtime if log.exists() else 0.0
        while not self.over() and not (log.exists() and log.stat().st_mtime > before):
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 2))


def kill_workers(folder, kills=50, steps=400, seed=0):
    """Kill a random process again and again while torchrun starts them anew; return a report."""
    draw, done = random.Random(seed), 0
    fields = {"images": 8 * steps, "report.checkpoint": 0.2, "report.events": 3}
    (folder / "small.yaml").write_text(write_recipe(override(make_small("luz"), fields)))
    Launch(folder, folder / "whole").ends()
    launch = Launch(folder, folder / "restarted", restarts=kills)
    while done < kills and not launch.over():
        # Some die while they start.
        time.sleep(draw.uniform(0, 6)) if draw.random() < 0.25 else launch.wait_for_steps(draw)
        if workers := launch.workers():
            with suppress(psutil.Error):
                draw.choice(sorted(workers, key=lambda each: each.pid)).kill()
                done += 1
            while not launch.over() and launch.workers() & workers:
                time.sleep(0.02)
    launch.ends()
    return {"kills": done, "faults": differing_files(folder / "whole", folder / "restarted")}


if __name__ == "__main__":
    run_as_command(kill_workers)
