"""Functions that the speed benchmarks share: they prepare steps, time them in turn and print tables."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from ddim.data import Images, split_images
from ddim.diffusion.pixels import Pixels
from ddim.machine.runtime import Runtime
from ddim.recipe.recipe import Recipe
from ddim.runs.state import Plan
from ddim.sampling.generate import generate
from ddim.sampling.pipeline import Pipeline
from ddim.sampling.sampling_setup import SamplingSetup
from ddim.training.trainer import Trainer

PIXELS = Pixels.fixed(0.5, 0.5)


def images(size: tuple[int, int], count: int = 512) -> Images:
    """Return noise as images: the speed of a network does not depend on its input."""
    stream = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *size, 3), generator=stream, dtype=torch.uint8).numpy()
    return Images(pixels, None, (), tuple(map(str, range(count))), "noise")


def training(recipe: Recipe, runtime: Runtime, updates: int = 2) -> Trainer:
    """Return a training of a recipe under a runtime, after `updates` updates, which compile its network."""
    source = images(recipe.data.size)
    run = Trainer(
        recipe,
        split_images(source, 0.1, 0),
        PIXELS,
        runtime,
        Plan(10**9),
    )
    for _ in range(updates):
        run.advance()
    return run


def bare_step(run: Trainer) -> Callable[[], object]:
    """Return a function of one step of a network on fixed tensors: forward, backward and optimiser."""
    count, model = run.recipe.optim.batch, run.compiled
    x0, eps = (
        torch.randn(model.blank(count).shape, generator=torch.Generator().manual_seed(k)) for k in (1, 2)
    )
    t = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    level = model.schedule(t)
    x = run.runtime.images(level.noisy(x0, eps))
    condition = model.conditioning(t, level).to(x)
    augment = {"augment": x.new_zeros(count, model.augment)} if model.augment else {}

    def step() -> None:
        with run.runtime.precise():
            loss = model.net(x, condition, **augment).square().mean()
        loss.backward()
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)

    return step


def sampled(trained: Pipeline, runtime: Runtime, count: int, steps: int) -> Callable[[], object]:
    """Return a function that samples images with a copy of our model.

    The function has been called once already, so that later calls do not include compilation.
    """
    model = runtime.place(copy.deepcopy(trained.model))
    model.net = runtime.compiled(model.net, frozen=True)
    trained = replace(trained, model=model, runtime=runtime)

    def make() -> None:
        generate(SamplingSetup(trained, steps), range(count))

    make()
    return make


def synchronise() -> None:
    """Wait until a GPU has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def pace(step: Callable[[], object], batch: int, seconds: float) -> float:
    """Return the images per second of a step, repeated for a number of seconds."""
    step()
    synchronise()
    begin, count, block = time.perf_counter(), 0, 1
    while (spent := time.perf_counter() - begin) < seconds:
        # Waiting for a GPU after each step would hide that it works while the next step is prepared.
        block = max(1, int(count * seconds / spent / 8)) if count else 1
        for _ in range(block):
            step()
        synchronise()
        count += block
    return count * batch / (time.perf_counter() - begin)


def in_turn(candidates: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return the speeds of each candidate, one for each round, keyed by the candidate's name.

    The candidates of a round follow each other, so that a drift of the machine affects all alike.
    """
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
