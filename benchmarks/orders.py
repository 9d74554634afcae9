"""Measure the order of convergence of every deterministic sampler and write docs/results/orders.md.

    python benchmarks/orders.py [--out docs/results/orders.md]

The model is an oracle, a mixture of Gaussians in image space, in float64. The error is the distance from the
probability flow of the oracle, which is integrated to about 1e-11. The order is the slope of log error over
log step for four numbers of levels. It is measured for the last state and for the sample.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import torch

import convergence as c
from ddim.diffusion.oracles import Mixture
from ddim.diffusion.samplers import DDIM, EDM, AdamsBashforth, DPMSolver, Sampler, UniPC
from ddim.diffusion.schedules import Cosine

SAMPLERS: dict[str, tuple[Sampler, str]] = {
    "DDIM": (DDIM(), "1"),
    "Euler (EDM, order 1)": (EDM(order=1), "1"),
    "Heun (EDM, alpha 1)": (EDM(), "2"),
    "Ralston (EDM, alpha 2/3)": (EDM(alpha=2 / 3), "2"),
    "midpoint (EDM, alpha 1/2)": (EDM(alpha=0.5), "2"),
    "Adams-Bashforth 2": (AdamsBashforth(2), "2"),
    "Adams-Bashforth 3": (AdamsBashforth(3), "2: starts with Euler"),
    "Adams-Bashforth 4": (AdamsBashforth(4), "2: starts with Euler"),
    "Adams-Bashforth 2, equal weights": (AdamsBashforth(2, steps="equal"), "2 where steps change smoothly"),
    "Adams-Bashforth 3, equal weights": (AdamsBashforth(3, steps="equal"), "2 where steps change smoothly"),
    "Adams-Bashforth 4, equal weights": (AdamsBashforth(4, steps="equal"), "2 where steps change smoothly"),
    "DPM-Solver++ 1": (DPMSolver(1), "1"),
    "DPM-Solver++ 2M": (DPMSolver(2), "2"),
    "DPM-Solver++ 3M": (DPMSolver(3), "2: starts with Euler"),
    "UniPC-1": (UniPC(1), "2"),
    "UniPC-2": (UniPC(2), "3"),
    "UniPC-3": (UniPC(3), "3: first step of order 2"),
}
GRIDS = ("uniform", "quadratic", "karras", "warped 0", "warped 1", "warped 2")
LEVELS, END = (163, 244, 366, 549), 0.2


def table() -> str:
    """Measure the orders, and return the whole page as Markdown."""
    schedule = Cosine(0.3, 0.999)
    draw = torch.Generator().manual_seed(1)
    oracle = Mixture(schedule, torch.randn(3, 1, 2, 2, generator=draw, dtype=torch.float64), 0.5)
    x = torch.randn(2, 1, 2, 2, generator=draw, dtype=torch.float64)
    truth = c.exact_flow(oracle, x, 1.0, END)
    lines = [
        "# Measured orders of convergence",
        "",
        *textwrap.wrap(
            "Written by `python benchmarks/orders.py`. The error is measured with "
            f"{', '.join(map(str, LEVELS[:-1]))} and {LEVELS[-1]} timesteps. Each cell has the slope of its "
            "logarithm against the log step size, for the last state / for the sample. The model is a "
            f"mixture of Gaussians under {schedule}, from t = 1 to {END}, in float64. The last column is the "
            f"error with {LEVELS[-1]} uniform timesteps. If a slope is above the order, the error changes "
            "its sign within these steps, and the slope says little.",
            width=128,
        ),
        "",
        "- The first steps of multistep methods have orders 1, 2, 3, ..., as they have no earlier slopes.",
        "- **equal weights**: the textbook weights for equal steps, used on every grid.",
        "- **warped k**: timesteps in equal steps of a smooth random function of time, drawn with seed k.",
        "",
        "| sampler | order | NFE with 20 timesteps | " + " | ".join(GRIDS) + " | error |",
        "|---" * (len(GRIDS) + 4) + "|",
    ]
    for name, (sampler, order) in SAMPLERS.items():
        cells = []
        nfe = sampler.evaluations(20)
        last_error = 0.0
        for grid in GRIDS:
            times = [c.lay_grid(grid, n, schedule, END) for n in LEVELS]
            found = [c.run_errors(sampler, oracle, x, t, truth) for t in times]
            orders = [
                c.convergence_order(LEVELS, errors)
                for errors in ([e.state for e in found], [e.sample for e in found])
            ]
            cells.append(f"{orders[0]:.2f} / {orders[1]:.2f}")
            last_error = found[-1].state if grid == "uniform" else last_error
        lines.append(f"| {name} | {order} | {nfe} | " + " | ".join(cells) + f" | {last_error:.1e} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, write and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/orders.md"))
    args = parser.parse_args()
    page = table()
    args.out.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
