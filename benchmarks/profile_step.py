"""Show where the time of a training step goes, and how fast its convolutions are.

    python benchmarks/profile_step.py [--recipe fast] [--size 64] [--steps 10] [--threads N]

Run it on an idle machine. The step is that of `ddim train`, compiled, in the precision that this machine
chooses. torch's profiler adds a few percent to its time. The operations are counted in the convolutions of
the network that is not compiled. The last line compares their speed with that of a product of two matrices of
2,048 x 2,048 in the same precision, which is near to the best that the processor can do.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from ddim.machine.runtime import Runtime, choose_runtime
from ddim.machine.startup import keep_freed_memory
from ddim.recipe.named import find_recipe
from ddim.training.trainer import Trainer
from timing import bare_step, pace, training

MATRIX = 2048
"""Rows and columns of the matrices whose product shows the speed of the processor."""

GROUPS = {
    "convolutions": ("convolution",),
    "attention and linear layers": ("attention", "aten::mm", "aten::addmm", "aten::bmm"),
    "norms, activations and sums, fused by the compiler": ("CompiledFxGraph", "graph_"),
}
"""Parts of the names of operators, keyed by the name of their group; the first group that fits counts."""

OPTIMISER, OTHERS = "optimiser", "all others: images, noise, loss, EMA, checks"


def find_group(event: FunctionEvent) -> str:
    """Return the group of an operator; operators that the optimiser calls belong to the optimiser."""
    above: FunctionEvent | None = event
    while above is not None:
        if "Optimizer.step" in above.name:
            return OPTIMISER
        above = above.cpu_parent
    for group, names in GROUPS.items():
        if any(name in event.name for name in names):
            return group
    return OTHERS


def measure_shares(run: Trainer, steps: int) -> tuple[Counter[str], float]:
    """Return the seconds of a step in each group of operators, and those of the whole step."""
    begin = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(steps):
            run.advance()
        took = time.perf_counter() - begin
    seconds: Counter[str] = Counter()
    events: Iterable[FunctionEvent] = found.events() or ()
    for event in events:
        seconds[find_group(event)] += event.self_cpu_time_total / 1e6 / steps
    return seconds, took / steps


def count_operations(run: Trainer) -> int:
    """Return the operations of all convolutions in a step; a multiplication and an addition are two."""
    run.compiled = run.model
    step = bare_step(run)
    with FlopCounterMode(display=False) as counter:
        step()
    return sum(n for op, n in counter.get_flop_counts()["Global"].items() if "convolution" in str(op))


def measure_product(runtime: Runtime) -> float:
    """Return the operations per second of a product of two large matrices."""
    kind = torch.bfloat16 if runtime.precision == "bf16" else torch.float32
    one = torch.randn(MATRIX, MATRIX, generator=torch.Generator().manual_seed(0)).to(kind)
    return pace(lambda: one @ one, 2 * MATRIX**3, 3.0)


def main() -> None:
    """Print a table of the groups, and the speed of the convolutions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--size", type=int, default=64, help="height and width of the images in pixels")
    parser.add_argument("--steps", type=int, default=10, help="number of steps that are measured")
    parser.add_argument("--threads", type=int, help="processor threads, by default as in `ddim train`")
    args = parser.parse_args()
    runtime = choose_runtime(compiling=True, threads=args.threads)
    with keep_freed_memory(), runtime:
        run = training(find_recipe(args.recipe, (args.size, args.size)), runtime, updates=4)
        seconds, whole = measure_shares(run, args.steps)
        operations, best = count_operations(run), measure_product(runtime)
    rate, batch = operations / seconds["convolutions"], run.recipe.optim.batch
    print(f"{args.recipe}, {args.size} pixels, batch {batch}, {runtime.precision}, {runtime.threads} threads")
    print(f"{whole:.3f} s per step")
    for group, spent in seconds.most_common():
        print(f"  {spent / seconds.total():6.1%}  {group}")
    print(f"convolutions {rate / 1e9:.0f} GFLOP/s; a product of matrices {best / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
