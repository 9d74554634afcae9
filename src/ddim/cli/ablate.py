"""`ddim ablate`: measure how discretisation, schedule, scaling and solver affect the sampling error."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ddim.cli import RUN, WEIGHTS
from ddim.cli.guidance import LABEL_FREE, add_guidance_options, take_guidance
from ddim.cli.machine import add_machine_options, load_run
from ddim.cli.output import print_result
from ddim.cli.tables import format_table

if TYPE_CHECKING:
    from ddim.evaluation.sampler_ablation import Ablation

_EPILOG = """
Measures the design choices of Karras et al. 2022 (figure 2) on any run. A row has a discretisation, which
chooses the noise levels that a sampler visits (edm, vp, ve or iddpm), and a solver (Euler or Heun, with the
same number of network evaluations). A column has a schedule sigma(t) and a scaling s(t). Each number is the
mean squared error of samples, in model units, against samples with many steps from the same noise. A second
table changes three published samplers step by step into the paper's sampler. A third table shows how far the
samples move if each step adds noise.
{guidance}

examples:
  ddim ablate runs/flowers64-edm-1
  ddim ablate runs/flowers64-fast-1 --evaluations 35 --seeds 32
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim ablate`."""
    parser.usage = "ddim ablate RUN [--evaluations 19] [--seeds 16] [--end T] [options]"
    parser.epilog = _EPILOG.format(guidance=LABEL_FREE)
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
        "--end", type=float, metavar="T", help="the last sampling time (default: as in the run's grid)"
    )
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    add_guidance_options(parser, labels=False)
    add_machine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure the sampling error of each combination of choices, and print three tables."""
    from ddim.cli.console import ProgressDisplay
    from ddim.evaluation.sampler_ablation import FLOWS, ORIGINS, ablate_sampler, trace_improvements
    from ddim.sampling.labels import default_label
    from ddim.sampling.sampling_setup import OFF, collect_guidance, open_guidance

    run = load_run(args)
    asked = collect_guidance(**take_guidance(args)) or OFF
    guidance = open_guidance(run, default_label(run.recipe), run.recipe.steps, asked)
    with ProgressDisplay() as progress:
        found = ablate_sampler(
            run, args.evaluations, args.seeds, end=args.end, progress=progress, guidance=guidance
        )
    columns = [f"{clock}, {scaling}" for clock, scaling in FLOWS]
    rows = [found.errors[k : k + len(columns)] for k in range(0, len(found.errors), len(columns))]
    samples = f"{args.seeds} samples, {args.evaluations} {'guided ' * guidance.on}evaluations each"
    by_choice = format_table(
        ("discretisation", "solver", *columns),
        [(row[0].discretisation, row[0].solver, *(f"{cell.error:.3g}" for cell in row)) for row in rows],
        numbers=2,
    )
    improvements = {origin: trace_improvements(found.errors, origin) for origin in ORIGINS}
    by_origin = format_table(
        ("from", "as published", "Heun's method", "EDM's noise levels", "sigma = t, s = 1"),
        [(origin, *(f"{value:.3g}" for value in values)) for origin, values in improvements.items()],
        numbers=1,
    )
    churned = [(f"gamma {gamma:.3g}", f"{value:.3g}") for gamma, value in found.churned]
    by_churn = format_table(("churn", "distance"), churned, numbers=1)
    noisy = "distance from the reference if each step adds noise (other samples, not worse samples):"
    result = {
        "errors": [asdict(cell) for cell in found.errors],
        "improvements": improvements,
        "churned": [{"gamma": gamma, "distance": value} for gamma, value in found.churned],
        **guidance.describe(),
    }
    notes = "".join(f"{note}\n" for note in _notes(found, args.evaluations))
    text = f"mean squared error of {samples}; sigma(t), s(t):\n{by_choice}{notes}\n"
    text += f"{by_origin}\n{noisy}\n{by_churn}"
    print_result(args, result, text)
    return 0


def _notes(found: Ablation, evaluations: int) -> Iterator[str]:
    """Yield notes on solvers whose steps do not fit the number of evaluations."""
    from ddim.evaluation.sampler_ablation import SOLVERS

    for solver, used in {cell.solver: cell.nfe for cell in found.errors}.items():
        step = SOLVERS[solver]
        if used < evaluations:
            yield f"{solver} uses {used} of the {evaluations} evaluations: each of its steps needs {step}"
        if used == step + 1:
            yield f"{solver} has a single step of {used} evaluations: give more --evaluations to compare it"
