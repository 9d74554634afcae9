"""Measure the error of every sampler and grid at few evaluations, as a Markdown table.

    python benchmarks/few_steps.py RUN [--seeds 32] [--budgets 5,10,20]

The error is the mean squared error of samples, in model units, against the samples of Heun's method with 500
levels, from the same noise and between the same first and last time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.evaluation import sampler_errors
from ddim.sampling.pipeline import load


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--budgets", default="5,10,20")
    args = parser.parse_args()
    trained = load(args.run)
    first, *_, end = trained.recipe.times(trained.recipe.steps).tolist()
    budgets = tuple(map(int, args.budgets.split(",")))
    error, ends = sampler_errors.prepare_run(trained, range(args.seeds))
    table = sampler_errors.compare_samplers(error, ends, budgets)
    base = dict(table["uniform"]["DDIM"])
    print(
        "Errors; in brackets, how many times smaller than DDIM's on the uniform grid. "
        f"Times go from t = {first:.4g} to {end:.4g}.\n"
    )
    print("| sampler | NFE | " + " | ".join(table) + " |\n" + "|---" * (2 + len(table)) + "|")
    for name in sampler_errors.SAMPLERS:
        for k, (nfe, _) in enumerate(table["uniform"][name]):
            budget = min((b for b in budgets if b >= nfe), default=nfe)
            errors = [lines[name][k][1] for lines in table.values()]
            cells = " | ".join(f"{each:.2e} ({base[budget] / each:.1f})" for each in errors)
            print(f"| {name} | {nfe} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
