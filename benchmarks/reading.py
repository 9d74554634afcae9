"""Measure how fast the batches of a training are read from a cold memory map, by 1, 2 and 4 processes.

`python benchmarks/reading.py FOLDER` writes random images of 128 pixels into FOLDER (1 GB), which should lie
on the disk of the data. Before each measurement, their pages are dropped from the memory of the system. The
noise of the batches is not drawn.
"""

import argparse
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import torch

from ddim.data import split_images
from ddim.data.images import Images
from ddim.diffusion.denoiser import Shape
from ddim.machine.distributed import Processes
from ddim.machine.runtime import Runtime
from ddim.recipe.named import find_recipe
from ddim.training.batches import Batches

COUNT, SIDE = 20_000, 128
"""Number of images, and their side in pixels."""

BATCH, STEPS = 256, 30
"""Images of a batch, of all processes together, and batches that are timed."""

PROCESSES = 1, 2, 4


def write_images(file: Path) -> None:
    """Write the random images, unless they are there."""
    if file.exists():
        return
    pixels = np.lib.format.open_memmap(file, "w+", np.uint8, (COUNT, SIDE, SIDE, 3))
    draw = np.random.default_rng(0)
    for first in range(0, COUNT, 1000):
        pixels[first : first + 1000] = draw.integers(0, 256, (1000, SIDE, SIDE, 3), dtype=np.uint8)
    pixels.flush()


def drop_pages(file: Path) -> None:
    """Drop the pages of a file from the memory of the system."""
    os.sync()
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_batches(file: Path, rank: int, count: int, ready, seconds) -> None:
    """Read the part of each batch that process `rank` of `count` trains on."""
    torch.set_num_threads(1)
    pixels = np.load(file, mmap_mode="r")
    names = tuple(map(str, range(COUNT)))
    split = split_images(Images(pixels, None, (), names, "0" * 64), 0.0, 0)
    recipe = find_recipe("fast", SIDE, {"optim.batch": BATCH})
    batches = Batches(recipe, split, Shape(3, SIDE, SIDE), Runtime(), Processes(rank, count))
    ready.wait()
    began = time.monotonic()
    for step in range(STEPS):
        batches._load(step)
    seconds.put(time.monotonic() - began)


def measure(file: Path, count: int) -> float:
    """Return how many images of the batches all processes read in a second."""
    context = multiprocessing.get_context("spawn")
    ready, seconds = context.Barrier(count), context.Queue()
    drop_pages(file)
    workers = [
        context.Process(target=read_batches, args=(file, rank, count, ready, seconds))
        for rank in range(count)
    ]
    for worker in workers:
        worker.start()
    slowest = max(seconds.get() for _ in workers)
    for worker in workers:
        worker.join()
    return BATCH * STEPS / slowest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    file = args.folder / "images.npy"
    write_images(file)
    for count in PROCESSES:
        found = sorted(measure(file, count) for _ in range(args.repeats))
        print(
            f"{count} processes: {found[len(found) // 2]:,.0f} images/s ({found[0]:,.0f} to {found[-1]:,.0f})"
        )


if __name__ == "__main__":
    main()
