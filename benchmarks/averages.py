"""Measure the errors of averages that are reconstructed from snapshots.

    python benchmarks/averages.py [--steps 1200]

The benchmark trains the recipe smoke and tracks averages of several widths. At the end it reconstructs each
of them from N snapshots of the averages of widths 0.05 and 0.10. It prints the distance of each
reconstruction from the tracked average, relative to the norm of the weights. Two methods are compared: that
of ddim, and least squares on the densities of the profiles (Karras et al. 2024, appendix C).
"""

import argparse
from dataclasses import replace

import numpy as np
import torch

from ddim.machine.runtime import Runtime
from ddim.nn.ema import Power
from ddim.nn.power_averages import (
    GAMMAS,
    Profile,
    combine_profiles,
    is_snapshot_step,
    power_of_width,
)
from ddim.recipe.named import smoke
from ddim.runs.state import Plan
from ddim.training.run import measure_pixels, open_split
from ddim.training.trainer import Trainer

WIDTHS = (0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.15, 0.2)
COUNTS = (4, 8, 16, 32)


def train(steps):
    """Train, and return the averages, the tracked powers and the last weights (P,).

    The averages (P,) are keyed by (step, power): those of `GAMMAS` at each snapshot, all at the last step.
    The tracked powers are those of `WIDTHS`, in this order.
    """
    powers = {f"{power_of_width(width):.6g}": power_of_width(width) for width in WIDTHS}
    rule = Power(GAMMAS[0], (GAMMAS[1], *(float(name) for name in powers)))
    recipe = replace(smoke(), ema=rule, images=steps * smoke().optim.batch)
    split = open_split(recipe)
    runtime = Runtime(threads=1)
    found = {}
    with runtime:
        run = Trainer(recipe, split, measure_pixels(recipe, split), runtime, Plan(recipe.images))
        rules = {name: one.gamma for name, one in run.rules.items()}
        for _ in range(steps):
            run.advance()
            kept = any(is_snapshot_step(run.step, count) for count in COUNTS)
            for name, gamma in rules.items():
                if run.step == steps or (kept and gamma in GAMMAS):
                    found[run.step, gamma] = flatten(run.averages[name])
        last = flatten(dict(run.model.named_parameters()))
    return found, [gamma for gamma in rules.values() if gamma not in GAMMAS], last


def flatten(tensors):
    """Return all numbers of a dictionary of tensors as one float64 array."""
    return torch.cat([value.detach().double().flatten() for value in tensors.values()]).numpy()


def combine_densities(known, wanted):
    """Return the coefficients of appendix C, by least squares on the densities of the profiles."""
    t, g = (np.array([getattr(p, name) for p in known], float) for name in ("step", "gamma"))

    def dot(t, g, s, h):
        return (g + 1) * (h + 1) * (t / s) ** np.where(t < s, h, -g) / ((g + h + 1) * np.maximum(t, s))

    gram = dot(t[:, None], g[:, None], t, g)
    solved = np.linalg.lstsq(gram, dot(t, g, wanted.step, wanted.gamma), rcond=1e-14)[0]
    # As in the authors' code, the sum of the coefficients becomes 1.
    return solved / solved.sum()


def main():
    """Train, reconstruct, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1200)
    steps = parser.parse_args().steps
    found, powers, last = train(steps)
    norm = np.linalg.norm(last)
    distance = np.linalg.norm(found[steps, GAMMAS[0]] - found[steps, GAMMAS[1]]) / norm
    print(f"{steps} steps; the averages of widths 0.05 and 0.10 differ by {distance:.1e} of the weights\n")
    print("| width | method |" + "".join(f" {count} snapshots |" for count in COUNTS))
    print("|---|---|" + "---|" * len(COUNTS))
    for width, gamma in zip(WIDTHS, powers, strict=True):
        rows, wanted = {"ddim": [], "appendix C": []}, Profile(steps, gamma)
        for count in COUNTS:
            kept = [step for step in range(1, steps) if is_snapshot_step(step, count)][-count:]
            known = [Profile(step, power) for step in [*kept, steps] for power in GAMMAS]
            ways = {
                "ddim": combine_profiles(known, wanted).coefficients,
                "appendix C": combine_densities(known, wanted),
            }
            for name, coefficients in ways.items():
                total = sum(c * found[p.step, p.gamma] for c, p in zip(coefficients, known, strict=True))
                rows[name].append(np.linalg.norm(total - found[steps, gamma]) / norm)
        for name, errors in rows.items():
            print(f"| {width} | {name} | " + " | ".join(f"{error:.1e}" for error in errors) + " |")


if __name__ == "__main__":
    main()
