"""Time candidates in turn: what the speed benchmarks share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from ddim.data import Images, split_images
from ddim.diffusion.pixels import Pixels
from ddim.nn.runtime import Runtime
from ddim.runs.recipe import Recipe
from ddim.training.loop import Plan, Training


def images(size: tuple[int, int], count: int = 512) -> Images:
    """Return noise as images: the speed of a network does not depend on its input."""
    stream = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *size, 3), generator=stream, dtype=torch.uint8).numpy()
    return Images(pixels, None, (), tuple(map(str, range(count))), "noise")


def training(recipe: Recipe, runtime: Runtime) -> Training:
    """Return a training of a recipe under a runtime, after two updates, which compile its network."""
    source = images(recipe.data.size)
    run = Training(
        recipe,
        split_images(source, 0.1, 0),
        Pixels.fixed(0.5, 0.5),
        runtime,
        Plan(10**9),
    )
    for _ in range(2):
        run.advance()
    return run


def pace(step: Callable[[], object], batch: int, seconds: float) -> float:
    """Return the images per second of a step, repeated for a number of seconds."""
    step()
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        step()
        count += 1
    return count * batch / (time.perf_counter() - begin)


def in_turn(candidates: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Time every candidate once a round, so that a drift of the machine affects all alike."""
    paces: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, measure in candidates.items():
            paces[name].append(measure())
    return paces


def show(title: str, paces: dict[str, list[float]]) -> None:
    """Print a table of medians, and the ratio of the first row to each other, pair by pair."""
    first = next(iter(paces.values()))
    print(f"\n{title}")
    for name, values in paces.items():
        ratio = statistics.median(a / b for a, b in zip(first, values, strict=True))
        print(
            f"  {name:<44} {statistics.median(values):8.1f} images/s   first row / this {ratio:5.2f}",
            flush=True,
        )
