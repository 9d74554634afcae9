"""The measured order of convergence of every deterministic sampler, as docs/orders.md.

    python benchmarks/orders.py [--out docs/orders.md]

On an oracle, a mixture of Gaussians in image space, in float64, against its flow integrated to about 1e-11:
the slope of log error over log step for four numbers of levels, of the last state and of the picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ddim.diffusion.oracles import Mixture, exact
from ddim.diffusion.samplers import DDIM, EDM, AdamsBashforth, DPMSolver, Sampler, UniPC
from ddim.diffusion.samplers import convergence as c
from ddim.diffusion.schedules import Cosine

SAMPLERS: dict[str, tuple[Sampler, str]] = {
    "DDIM": (DDIM(), "1"),
    "Euler (EDM, order 1)": (EDM(order=1), "1"),
    "Heun (EDM, alpha 1)": (EDM(), "2"),
    "Ralston (EDM, alpha 2/3)": (EDM(alpha=2 / 3), "2"),
    "midpoint (EDM, alpha 1/2)": (EDM(alpha=0.5), "2"),
    "Adams-Bashforth 2": (AdamsBashforth(2), "2"),
    "Adams-Bashforth 3, ramp": (AdamsBashforth(3), "2: starts with Euler"),
    "Adams-Bashforth 3, exact start": (AdamsBashforth(3, start="exact"), "3"),
    "Adams-Bashforth 4, ramp": (AdamsBashforth(4), "2: starts with Euler"),
    "Adams-Bashforth 4, exact start": (AdamsBashforth(4, start="exact"), "4"),
    "Adams-Bashforth 5, exact start": (AdamsBashforth(5, start="exact"), "5"),
    "Adams-Bashforth 2, equal weights": (AdamsBashforth(2, steps="equal"), "2 where steps change smoothly"),
    "Adams-Bashforth 3, equal weights": (AdamsBashforth(3, steps="equal"), "2 where steps change smoothly"),
    "Adams-Bashforth 4, equal weights": (AdamsBashforth(4, steps="equal"), "2 where steps change smoothly"),
    "DPM-Solver++ 1": (DPMSolver(1), "1"),
    "DPM-Solver++ 2M": (DPMSolver(2), "2"),
    "DPM-Solver++ 3M, ramp": (DPMSolver(3), "2: starts with Euler"),
    "DPM-Solver++ 3M, exact start": (DPMSolver(3, start="exact"), "3"),
    "UniPC-1": (UniPC(1), "2"),
    "UniPC-2": (UniPC(2), "3"),
    "UniPC-3": (UniPC(3), "3: first step of order 2"),
}
CLOCKS = {"uniform": c.uniform, "quadratic": c.quadratic, "Karras": c.karras} | {
    f"warped {seed}": c.warped(seed) for seed in range(3)
}
LEVELS, END = (163, 244, 366, 549), 0.2


def table() -> str:
    """The whole page."""
    schedule = Cosine(0.3, 0.999)
    draw = torch.Generator().manual_seed(1)
    oracle = Mixture(schedule, torch.randn(3, 1, 2, 2, generator=draw, dtype=torch.float64), 0.5)
    x = torch.randn(2, 1, 2, 2, generator=draw, dtype=torch.float64)
    truth = exact(oracle, x, 1.0, END)
    lines = [
        "# Measured orders of convergence",
        "",
        "Written by `python benchmarks/orders.py`. "
        f"Slopes over {', '.join(map(str, LEVELS))} levels of the error of the last state / of the picture, "
        f"on a mixture of Gaussians under {schedule}, from t = 1 to {END}, float64; the error is that of "
        f"{LEVELS[-1]} uniform levels. Slopes above the order come from errors that still cross zero.",
        "",
        "| sampler | order | NFE at 20 levels | " + " | ".join(CLOCKS) + " | error |",
        "|---" * (len(CLOCKS) + 4) + "|",
    ]
    for name, (sampler, order) in SAMPLERS.items():
        cells = []
        nfe = c.errors(sampler, oracle, x, c.uniform(20, schedule, END), truth).nfe
        last_error = 0.0
        for clock_name, clock in CLOCKS.items():
            found = [c.errors(sampler, oracle, x, clock(n, schedule, END), truth) for n in LEVELS]
            slopes = (c.slope(LEVELS, [e.state for e in found]), c.slope(LEVELS, [e.picture for e in found]))
            cells.append(f"{slopes[0]:.2f} / {slopes[1]:.2f}")
            last_error = found[-1].state if clock_name == "uniform" else last_error
        lines.append(f"| {name} | {order} | {nfe} | " + " | ".join(cells) + f" | {last_error:.1e} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/orders.md"))
    args = parser.parse_args()
    page = table()
    args.out.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
