"""Compare a searched grid with the named grids on seeds that the search did not use, as a Markdown table.

    ddim search RUN --steps 5; ddim search RUN --steps 10
    python benchmarks/searched.py RUN [--steps 5,10] [--seeds 256]

The error is the mean squared error of samples, in model units, by the run's sampler on the searched grid and
on every named grid between the same ends, from the same noise. The reference is DPM-Solver++ 3M on 100 equal
steps of log-SNR. Its distance from Heun's method on 500 levels (999 evaluations) is measured on the first
seeds, and printed.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from ddim.diffusion.samplers import DPMSolver
from ddim.evaluation.sampler_errors import (
    TimeRange,
    error_against_reference,
    sample_in_model_units,
)
from ddim.sampling.pipeline import load
from ddim.sampling.searched import find_saved_grid

LEVELS, TRUSTED = 100, 16


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", default="5,10")
    parser.add_argument("--seeds", type=int, default=256)
    args = parser.parse_args()
    trained = load(args.run)
    sampler, schedule, seeds = trained.recipe.sampler, trained.recipe.sampling_schedule, range(args.seeds)
    grids = {}
    for steps in map(int, args.steps.split(",")):
        found = find_saved_grid(args.run, sampler, steps, "ema")
        if found is None:
            raise SystemExit(
                f"{args.run} has no grid of {steps} steps: ddim search {args.run} --steps {steps}"
            )
        times = found(steps, schedule)
        ends = TimeRange(schedule, times[-1].item(), times[0].item())
        grids[steps] = {"searched": times, **ends.lay_grids(steps)}
    fine = ends.lay_grids(LEVELS)["uniform_log_snr"]
    truth = sample_in_model_units(trained, DPMSolver(3), fine, seeds)
    sample = partial(sample_in_model_units, trained, seeds=seeds[:TRUSTED])
    off = error_against_reference(sample, ends, 500)(DPMSolver(3), fine)
    print(
        f"From t = {ends.first:.4g} to {ends.last:.4g}, {args.seeds} seeds; "
        f"it differs from Heun's by {off:.1e}.\n"
    )
    print("| NFE | " + " | ".join(grids[steps]) + " |\n" + "|---" * (1 + len(grids[steps])) + "|")
    for steps, named in grids.items():
        errors = [
            (sample_in_model_units(trained, sampler, at, seeds) - truth).square().flatten(1).mean(1)
            for at in named.values()
        ]
        cells = [f"{error.mean():.2e}" for error in errors]
        # Standard errors of the mean difference, seed by seed.
        for k in range(1, len(errors)):
            gain = errors[k] - errors[0]
            cells[k] += f" ({gain.mean() / gain.std() * len(gain) ** 0.5:.1f} s.e. worse)"
        print(f"| {steps} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
