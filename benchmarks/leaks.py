"""Whether what was done to training images shows in a run's pictures.

    python benchmarks/leaks.py RUN [-n 500] [--steps 18]

Statistics that mirroring, turning, stretching and shifting change, of the run's training images, of the same
images augmented as training does it, and of pictures that are told of no augmentation; each a mean with its
standard error. A leak moves pictures from the first towards the second: `part` says how far.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from ddim.augment import augmented
from ddim.data.transforms import batch as gather
from ddim.data.transforms import unit
from ddim.generate import generate, load
from ddim.own_images import own_images


def statistics(images: Tensor) -> dict[str, Tensor]:
    """Of each image (B, C, H, W) in [0, 1] a number (B,), by name."""
    gray = images.mean(1)
    half, (h, w) = [size // 2 for size in gray.shape[1:]], [size // 4 for size in gray.shape[1:]]
    across, down = (gray.diff(dim=dim).square().mean((1, 2)) for dim in (2, 1))
    centre = gray[:, h:-h, w:-w].mean((1, 2))
    corners = torch.stack(
        [
            gray[:, rows, columns].mean((1, 2))
            for rows in (slice(h), slice(-h, None))
            for columns in (slice(w), slice(-w, None))
        ]
    )
    colours = {f"colour {k}": value for k, value in enumerate(images.mean((2, 3)).T)}
    return {
        "left minus right": gray[:, :, : half[1]].mean((1, 2)) - gray[:, :, half[1] :].mean((1, 2)),
        "top minus bottom": gray[:, : half[0]].mean((1, 2)) - gray[:, half[0] :].mean((1, 2)),
        "log slope across / down": (across / down).log(),
        "centre minus corners": centre - corners.mean(0),
        **colours,
    }


def main() -> None:
    """Make pictures, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("-n", type=int, default=500, help="pictures (default 500)")
    parser.add_argument("--steps", type=int, default=18, help="levels of the grid (default 18)")
    args = parser.parse_args()
    trained = load(args.run)
    own = own_images(trained)
    data = unit(gather(own.images, own.train))
    # Of every image the same share is changed as in training.
    labels = trained.recipe.augment.labels(len(data), torch.Generator().manual_seed(0))
    changed = trained.pixels.leave(augmented(trained.pixels.enter(data), labels))
    pictures, _ = generate(trained, range(args.n), args.steps)
    print(f"{len(data)} training images, {args.n} pictures of {args.run.name}")
    print(f"{'':<26}{'training images':>20}{'augmented':>20}{'pictures':>20}{'z':>7}{'part':>18}")
    rows = zip(*(statistics(images).items() for images in (data, changed, pictures)), strict=True)
    for (name, one), (_, other), (_, made) in rows:
        (a, a_error), (b, b_error), (c, c_error) = (
            (value.mean().item(), value.std().item() / math.sqrt(len(value))) for value in (one, other, made)
        )
        spread = math.hypot(a_error, c_error)
        cells = "".join(f"{m:>11.4f} +- {e:.4f}" for m, e in ((a, a_error), (b, b_error), (c, c_error)))
        part = f"{(c - a) / (b - a):>9.2f} +- {abs(spread / (b - a)):.2f}" if abs(b - a) > 3 * b_error else ""
        print(f"{name:<26}{cells}{(c - a) / spread:>7.1f}{part:>18}", flush=True)


if __name__ == "__main__":
    main()
