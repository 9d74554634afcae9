"""`ddim ablate`: what discretisation, schedule, scaling and solver are worth to a run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ddim.cli import DEVICE, RUN, WEIGHTS
from ddim.cli.tables import print_table
from ddim.errors import check_count

_EPILOG = """
Measures the choices of Karras et al. 2022 (figure 2) on any run. Rows are the noise levels that a sampler
visits (edm, vp, ve, iddpm) and its solver (Euler or Heun, at the same number of evaluations). Columns are the
schedule sigma(t) and the scaling s(t). Each number is the mean squared error of samples, in model units,
against the samples of a run with many steps from the same noise. A second table goes from three published
samplers to the paper's own, step by step. A third shows how far renewed noise moves the samples.

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
        "--evaluations",
        type=int,
        default=19,
        metavar="N",
        help="network evaluations per sample (default: 19)",
    )
    parser.add_argument(
        "--seeds", type=int, default=16, metavar="N", help="number of samples to compare (default: 16)"
    )
    parser.add_argument(
        "--end", type=float, metavar="T", help="the last sampling time (default: that of the run's grid)"
    )
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    parser.add_argument("--device", help=DEVICE)


def run(args: argparse.Namespace) -> int:
    """Measure, and print the tables."""
    from ddim.cli.console import report_progress
    from ddim.evaluation import sampler_ablation as ablation
    from ddim.runs.generate import find_grid_ends
    from ddim.runs.pipeline import load

    check_count("--seeds", args.seeds)
    check_count("--evaluations", args.evaluations, 3)
    trained = load(args.run, args.weights, device=args.device)
    schedule = trained.recipe.walked
    first, end = find_grid_ends(trained.recipe, trained.recipe.report.steps)
    end = end if args.end is None else args.end
    nfe = args.evaluations
    error = ablation.of_run(trained, end, range(args.seeds), nfe, first)
    progress, cells = report_progress(), []
    columns = [f"{clock}, {scaling}" for clock, scaling in ablation.FLOWS]
    for cell in ablation.ablated(error, schedule, end, nfe, first):
        cells.append(cell)
        progress("samplers", len(cells), len(ablation.SOLVERS) * len(ablation.DISCRETISATIONS) * len(columns))
    sys.stdout.write(f"mean squared error of {args.seeds} samples, {nfe} evaluations each; sigma(t), s(t):\n")
    rows = [cells[k : k + len(columns)] for k in range(0, len(cells), len(columns))]
    print_table(
        ("levels", "solver", *columns),
        [(row[0].discretisation, row[0].solver, *(f"{cell.error:.3g}" for cell in row)) for row in rows],
        numbers=2,
    )
    sys.stdout.write("\n")
    print_table(
        ("from", "as published", "Heun's rule", "EDM's levels", "sigma = t, s = 1"),
        [(o, *(f"{value:.3g}" for value in ablation.path(cells, o))) for o in ablation.ORIGINS],
        numbers=1,
    )
    sys.stdout.write(
        "\nwith renewed noise, which leads to other samples: their distance, not their quality\n"
    )
    churned = ablation.churned(error, schedule, end, nfe, first)
    print_table(
        ("churn", "distance"), [(f"gamma {gamma:.3g}", f"{value:.3g}") for gamma, value in churned], 1
    )
    return 0
