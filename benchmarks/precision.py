"""Measure the cost of bf16 in quality: image MAE by noise level after training in bf16 and in float32.

    python benchmarks/precision.py DATA [--recipes luz,keras,fast] [--images 20000] [--size 64]

Trains two compiled runs of each recipe that differ in precision only: same weights, images, times and noise.
Then it compares their EMA weights, each in its own precision, on the same held-out images and noise at ten
times.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch

from ddim.data import SplitImages, parse_size
from ddim.evaluation.diagnose import measure_errors, to_model_batches
from ddim.machine.runtime import Runtime, choose_runtime
from ddim.recipe.named import find_recipe
from ddim.recipe.recipe import Recipe
from ddim.runs.state import Plan
from ddim.training.run import measure_pixels, open_split
from ddim.training.trainer import Trainer

TIMES = (torch.arange(10, dtype=torch.float64) + 0.5) / 10
HELD_OUT = 512


def trained(recipe: Recipe, parts: SplitImages, runtime: Runtime, images: int) -> Trainer:
    """Train a run on a number of images under a runtime."""
    training = Trainer(recipe, parts, measure_pixels(recipe, parts), runtime, Plan(images))
    # In the first updates the network is compiled.
    for _ in range(2):
        training.advance()
    begin, first = time.perf_counter(), training.seen
    while not training.finished:
        training.advance()
    pace = (training.seen - first) / (time.perf_counter() - begin)
    print(f"  {runtime.precision}: {pace:.1f} images/s", flush=True)
    return training


def errors(training: Trainer) -> torch.Tensor:
    """Return (10,) image MAE of the EMA weights at TIMES, on the first held-out images."""
    parts = training.split
    with training.averaged() as pipeline:
        batches = to_model_batches(pipeline, parts.images, parts.validation[:HELD_OUT])
        with pipeline.runtime.precise():
            found = measure_errors(batches, TIMES)
    return torch.from_numpy(found["image_mae"].mean(0))


def main() -> None:
    """Train, and print one table per recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--recipes", default="luz,keras,fast")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--size", default="64", help="of the images, in pixels (default 64)")
    args = parser.parse_args()
    quick = choose_runtime(precision="bf16", compiling=True)
    for name in args.recipes.split(","):
        recipe = find_recipe(name)
        recipe = replace(recipe, data=replace(recipe.data, source=args.data, size=parse_size(args.size)))
        parts = open_split(recipe)
        print(f"recipe {name}, {args.images} images", flush=True)
        with quick:
            rounded, exact = (
                errors(trained(recipe, parts, replace(quick, precision=precision), args.images))
                for precision in ("bf16", "fp32")
            )
        for row, values in {"t": TIMES, "bf16": rounded, "fp32": exact, "ratio": rounded / exact}.items():
            print(f"  {row:<6}" + "".join(f"{value:8.4f}" for value in values.tolist()), flush=True)


if __name__ == "__main__":
    main()
