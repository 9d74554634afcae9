"""Which sampler and grid come nearest to a fine run in few evaluations, as a Markdown table.

    python benchmarks/few_steps.py RUN [--seeds 32] [--budgets 5,10,20]

Mean squared error of the pictures, in model units, to those of Heun's rule on 500 levels between the same
ends and from the same noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.evaluation import sampler_errors as comparison
from ddim.runs.generate import find_grid_ends
from ddim.runs.pipeline import load


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--budgets", default="5,10,20")
    args = parser.parse_args()
    trained = load(args.run)
    schedule = trained.recipe.walked
    first, end = find_grid_ends(trained.recipe, trained.recipe.report.steps)
    budgets = tuple(map(int, args.budgets.split(",")))
    error = comparison.of_run(trained, end, range(args.seeds), first)
    cells = comparison.compared(error, schedule, end, budgets, first)
    base = {c.nfe: c.error for c in cells if (c.sampler, c.grid) == ("DDIM", "uniform")}
    grids = list(dict.fromkeys(cell.grid for cell in cells))
    print(
        "Errors, and how many times less than DDIM's on the uniform grid; "
        f"from t = {first:.4g} to {end:.4g}.\n"
    )
    print("| sampler | NFE | " + " | ".join(grids) + " |\n" + "|---" * (2 + len(grids)) + "|")
    for name in comparison.SAMPLERS:
        for nfe in dict.fromkeys(c.nfe for c in cells if c.sampler == name):
            row = [c for c in cells if (c.sampler, c.nfe) == (name, nfe)]
            budget = min((b for b in budgets if b >= nfe), default=nfe)
            told = " | ".join(f"{c.error:.2e} ({base[budget] / c.error:.1f})" for c in row)
            print(f"| {name} | {nfe} | {told} |", flush=True)


if __name__ == "__main__":
    main()
