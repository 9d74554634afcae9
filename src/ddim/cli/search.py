"""`ddim search`: the best levels for a run, a sampler and a number of steps."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ddim.cli import DEVICE, WEIGHTS, check_fields, check_run_folder
from ddim.errors import UserError, check_count

if TYPE_CHECKING:
    from torch import Tensor

TAKES_FIELDS = True

_EPILOG = """
Varies the sampling times between the first and the last time of the run's grid, and keeps those whose samples
are nearest to the samples of a run with many steps. This takes minutes. The best times are written to
RUN/grids.json; `ddim sample RUN` with the same --steps and sampler uses them, unless --grid is given.

sampling options:
  --sampler, --grid and their fields, as in `ddim sample` (default: the recipe's)

examples:
  ddim search runs/photos-fast-1 --steps 10
  ddim search runs/photos-fast-1 --steps 5 --sampler dpm_solver
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim search`."""
    parser.usage = "ddim search RUN [--steps 10] [--sampler NAME] [--end T] [--seeds 16] [options]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="sampling steps (default: 10)")
    parser.add_argument(
        "--end", type=float, metavar="T", help="the last sampling time (default: that of the run's grid)"
    )
    parser.add_argument(
        "--seeds", type=int, default=16, metavar="N", help="number of samples to compare (default: 16)"
    )
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    parser.add_argument("--device", help=DEVICE)


FIRST_SEED = 2**31
"""Pictures of a search are of seeds that nobody is likely to ask for."""


def run(args: argparse.Namespace) -> int:
    """Search, print, save."""
    from ddim.evaluation import grid_search
    from ddim.runs import searched_grids as searched
    from ddim.runs.codec import override
    from ddim.runs.generate import find_grid_ends
    from ddim.runs.pipeline import load

    check_fields(args, "search", "sampler", "grid")
    check_run_folder(args.run)
    check_count("--seeds", args.seeds)
    trained = load(args.run, args.weights, device=args.device)
    recipe = override(trained.recipe, args.fields)
    if recipe.sampler.stochastic:
        raise UserError("--sampler must be deterministic: what renews noise comes no nearer to a fine run")
    # Where the end is named, only the beginning is asked of the run's grid, which may have no so many levels.
    first, end = find_grid_ends(recipe, max(args.steps, 2) if args.end is None else recipe.report.steps)
    end = end if args.end is None else args.end
    grid_search.check(args.steps, recipe.walked, end, first)
    # A file that is something else is found now, not when there is a grid to add to it.
    searched.saved(args.run, recipe.sampler, args.steps, args.weights)
    seeds = range(FIRST_SEED, FIRST_SEED + args.seeds)
    began = time.monotonic()
    truth = grid_search.reference(trained, end, seeds, grid_search.fine(args.steps), first)

    def error(times: Tensor) -> float:
        made = grid_search.pictures(trained, recipe.sampler, times, seeds)
        return (made - truth).square().mean().item()

    def tell(text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:6.0f} s  {text}\n")
        sys.stdout.flush()

    found = grid_search.search(args.steps, recipe.walked, end, error, tell, first)
    searched.save(args.run, recipe.sampler, args.steps, args.weights, found)
    best = min(found.named, key=found.named.__getitem__)
    gain = found.named[best] / found.error if found.error else float("inf")
    sys.stdout.write(
        f"mean squared error {found.error:.3g}, {gain:.2f} times less than {best}: {args.run}/grids.json\n"
    )
    return 0
