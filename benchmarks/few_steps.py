"""Measure the error of every sampler and grid at few evaluations, as a Markdown table.

    python benchmarks/few_steps.py RUN [--seeds 32] [--budgets 5,10,20]

The error is the mean squared error of samples, in model units, against the samples of Heun's method with 500
levels, from the same noise and between the same first and last time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.evaluation import sampler_errors
from ddim.sampling.generate import find_grid_ends
from ddim.sampling.pipeline import load


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--budgets", default="5,10,20")
    args = parser.parse_args()
    trained = load(args.run)
    first, end = find_grid_ends(trained.recipe, trained.recipe.steps)
    budgets = tuple(map(int, args.budgets.split(",")))
    cells = sampler_errors.compare_samplers_on_run(trained, budgets, range(args.seeds))
    base = {c.nfe: c.error for c in cells if (c.sampler, c.grid) == ("DDIM", "uniform")}
    grids = list(dict.fromkeys(cell.grid for cell in cells))
    print(
        "Errors; in brackets, how many times smaller than DDIM's on the uniform grid. "
        f"Times go from t = {first:.4g} to {end:.4g}.\n"
    )
    print("| sampler | NFE | " + " | ".join(grids) + " |\n" + "|---" * (2 + len(grids)) + "|")
    for name in sampler_errors.SAMPLERS:
        for nfe in dict.fromkeys(c.nfe for c in cells if c.sampler == name):
            row = [c for c in cells if (c.sampler, c.nfe) == (name, nfe)]
            budget = min((b for b in budgets if b >= nfe), default=nfe)
            cells_text = " | ".join(f"{c.error:.2e} ({base[budget] / c.error:.1f})" for c in row)
            print(f"| {name} | {nfe} | {cells_text} |", flush=True)


if __name__ == "__main__":
    main()
