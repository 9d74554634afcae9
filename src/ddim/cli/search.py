"""`ddim search`: find the best sampling times for a run, a sampler and a number of steps."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from ddim.cli import WEIGHTS, check_fields
from ddim.cli.machine import add_machine_options, load_run
from ddim.cli.output import print_result

TAKES_FIELDS = True

_EPILOG = """
Varies the sampling times between the first and the last time of the run's grid, and keeps the times whose
samples are nearest to samples with many steps. This takes minutes. The best times are written to
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
        "--end", type=float, metavar="T", help="the last sampling time (default: as in the run's grid)"
    )
    parser.add_argument(
        "--seeds", type=int, default=16, metavar="N", help="number of samples to compare (default: 16)"
    )
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="a new folder for grids.json, where `ddim sample` does not look for it (default: RUN)",
    )
    add_machine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Search for the best times; print their error and the errors of the named grids."""
    from ddim.cli.console import ProgressDisplay
    from ddim.evaluation.grid_search import search_grid

    check_fields(args, "search", "sampler", "grid")
    run = load_run(args)
    with ProgressDisplay() as progress:
        found = search_grid(
            run,
            args.steps,
            end=args.end,
            seeds=args.seeds,
            fields=args.fields,
            progress=progress,
            out=args.out,
        )
    best = min(found.named, key=found.named.__getitem__)
    gain = found.named[best] / found.error if found.error else float("inf")
    file = (args.out or args.run) / "grids.json"
    text = "".join(f"{name}: mean squared error {error:.3g}\n" for name, error in found.named.items())
    text += f"mean squared error {found.error:.3g}, {gain:.2f} times smaller than on the {best} grid: {file}"
    if args.out:
        times = ",".join(f"{t:.6g}" for t in found.times)
        text += f"\nto use it: ddim sample {args.run} --steps {args.steps} --grid listed --grid.times {times}"
    print_result(args, {"file": file, "steps": args.steps, **asdict(found)}, text)
    return 0
