"""Measure the error of inverting and restoring real images, for several numbers of steps.

    python benchmarks/round_trip.py RUN DATA [--images 16] [--steps 10,20,50,100,200,500,1000] [--exact 20]

The error is the mean squared error per dimension of images in [0, 1], on held-out images of the run's split,
in float32. The inversion starts from alpha x0 at the last level, without noise. The errors are printed as a
Markdown table, beside those that Song et al. 2021 report for CIFAR-10 (table 2, images in [0, 1] too).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from ddim.data.images import gather_batch
from ddim.diffusion.editing import find_latents, restore
from ddim.recipe.codec import override
from ddim.recipe.recipe import Recipe
from ddim.sampling.pipeline import load
from ddim.training.run import open_split

SONG = {10: 0.014, 20: 0.0065, 50: 0.0023, 100: 0.0009, 200: 0.0004, 500: 0.0001, 1000: 0.0001}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--steps", default="10,20,50,100,200,500,1000")
    parser.add_argument("--exact", default="20", help="numbers of levels at which each step is solved too")
    parser.add_argument("--grid", default="uniform_log_snr", help="default: that of ddim invert")
    args = parser.parse_args()
    trained = load(args.run)
    recipe, model = trained.recipe, trained.denoiser(trained.model)
    parts = open_split(replace(recipe, data=replace(recipe.data, source=args.data)))
    known = trained.checkpoint.state.images
    if known is None or parts.images.fingerprint != known.fingerprint or not len(parts.validation):
        raise SystemExit(
            f"{args.run} was trained on other images than {args.data}, or has no held-out images"
        )
    images = gather_batch(parts.images, parts.validation[: args.images]).float() / 255
    x0 = trained.runtime.images(trained.pixels.enter(images))
    grid = override(Recipe(), {"grid": args.grid}).grid

    def error(steps: int, exact: bool) -> str:
        times = grid(steps, recipe.sampling_schedule)
        latent, residual = find_latents(model, x0, times, exact=exact)
        back = trained.pixels.leave(restore(model, latent, times))
        missed = f" (not converged, {residual:.1e})" if residual else ""
        return f"{(back.cpu() - images).square().mean():.2e}{missed}"

    exact = [int(steps) for steps in args.exact.split(",") if steps]
    print("| levels | there and back | each step solved | Song et al., CIFAR-10 |\n|---|---|---|---|")
    for steps in map(int, args.steps.split(",")):
        solved = error(steps, True) if steps in exact else ""
        print(f"| {steps} | {error(steps, False)} | {solved} | {SONG.get(steps, '')} |", flush=True)


if __name__ == "__main__":
    main()
