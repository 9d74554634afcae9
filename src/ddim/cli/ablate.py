"""`ddim ablate`: what discretisation, schedule, scaling and solver are worth to a run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ddim.cli import RUN, WEIGHTS
from ddim.errors import check_count

if TYPE_CHECKING:
    from ddim.evaluation.sampler_ablation import Cell

_EPILOG = """
The choices of Karras et al. 2022, for any model: which noise levels a sampler visits (rows: edm, vp, ve,
iddpm), by which rule (Euler's or Heun's, at the same number of evaluations), in which variable (columns:
sigma(t) and s(t)). Each number is the mean squared error of pictures, in model units, against those of a fine
run from the same noise. Below it the paper's way from three published samplers to its own, and what renewed
noise does.

examples:
  ddim ablate runs/flowers64-edm-1
  ddim ablate runs/flowers64-fast-1 --evaluations 35 --seeds 32
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim ablate`."""
    parser.usage = "ddim ablate RUN [--evaluations 19] [--seeds 16] [--end T] [options]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN)
    parser.add_argument(
        "--evaluations", type=int, default=19, metavar="N", help="of the network, a picture (default 19)"
    )
    parser.add_argument(
        "--seeds", type=int, default=16, metavar="N", help="pictures that are compared (default 16)"
    )
    parser.add_argument(
        "--end", type=float, metavar="T", help="the last level (default: that of the run's own grid)"
    )
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    parser.add_argument("--device", help="default: the one that the run was trained on")


def run(args: argparse.Namespace) -> int:
    """Measure, and print the tables."""
    from ddim.evaluation import sampler_ablation as ablation
    from ddim.runs.generate import ends
    from ddim.runs.pipeline import load

    check_count("--seeds", args.seeds)
    check_count("--evaluations", args.evaluations, 3)
    trained = load(args.run, args.weights, device=args.device)
    schedule = trained.recipe.walked
    first, end = ends(trained.recipe, trained.recipe.report.steps)
    end = end if args.end is None else args.end
    nfe = args.evaluations
    error = ablation.of_run(trained, end, range(args.seeds), nfe, first)
    cells: list[Cell] = []
    names = [f"{clock}, {scaling}" for clock, scaling in ablation.FLOWS]
    _say(f"mean squared error of {args.seeds} pictures of {nfe} evaluations; sigma(t) and s(t) are")
    _say(f"{'levels':<8}{'solver':<8}" + "".join(f"{name:>14}" for name in names))
    for cell in ablation.ablated(error, schedule, end, nfe, first):
        if len(cells) % len(names) == 0:
            sys.stdout.write(f"{cell.discretisation:<8}{cell.solver:<8}")
        sys.stdout.write(f"{cell.error:>14.3g}")
        sys.stdout.flush()
        cells.append(cell)
        if len(cells) % len(names) == 0:
            _say("")
    stages = ("as published", "Heun's rule", "EDM's levels", "sigma = t, s = 1")
    _say(f"\n{'from':<8}" + "".join(f"{stage:>18}" for stage in stages))
    for origin in ablation.ORIGINS:
        _say(f"{origin:<8}" + "".join(f"{value:>18.3g}" for value in ablation.path(cells, origin)))
    _say("\nnoise renewed, so that pictures are others: how far they go, not how good they are")
    for gamma, value in ablation.churned(error, schedule, end, nfe, first):
        _say(f"gamma {gamma:<10.3g}{value:.3g}")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
