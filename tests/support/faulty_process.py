"""`ddim train` in one of the processes of torchrun, with a fault in this process alone.

torchrun --standalone --nproc-per-node 2 faulty_process.py FAULT RECIPE OUT
"""

import os
import resource
import sys
import time
from contextlib import suppress

from ddim.cli import main
from ddim.nn import process_watch
from ddim.nn.process_watch import ProcessWatch
from ddim.training.loop import Training

RANK = int(os.environ["RANK"])


def run_out_of_memory(rank):
    """Let a process fail in its sixth step."""
    advance = Training.advance

    def failing(self):
        if rank == RANK and self.step == 5:
            raise MemoryError("cannot allocate 8 GB")
        return advance(self)

    Training.advance = failing


def ask_late():
    """Make a process ask why an exchange failed only after process 0, which holds the store, has ended."""
    explain, process_watch.GRACE = ProcessWatch.explain, 60

    def late(self, error):
        with suppress(RuntimeError, KeyboardInterrupt):
            while True:
                self._store.check(["failed"])
                time.sleep(0.1)
        return explain(self, error)

    ProcessWatch.explain = late


def fill_the_disk():
    """Let no file of process 0 grow beyond 60,000 bytes once it trains.

    The limit begins no earlier, because process 0 first writes the decoded images.
    """
    advance = Training.advance

    def limited(self):
        if RANK == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        return advance(self)

    Training.advance = limited


if __name__ == "__main__":
    fault, recipe, out = sys.argv[1:]
    if fault == "memory":
        run_out_of_memory(1)
    if fault == "memory of process 0":
        run_out_of_memory(0)
        ask_late()
    if fault == "disk":
        fill_the_disk()
    data = f"blossoms:{40 + RANK}" if fault == "images" else "blossoms:40"
    words = ["train", data, "--recipe", recipe, "--out", out, "--images", "400", "--no-compile"]
    sys.exit(main(words))
