"""Whether what was done to training images shows in a run's pictures.

    python benchmarks/leaks.py RUN [CONTROL] [-n 2000] [--steps 20]

Statistics that mirroring, turning, stretching and shifting change, each a mean with its standard error: of
the run's training images; of the same images augmented as in training; of pictures of the run that is told
of no augmentation, as when it is sampled; of the same seeds where it is told of one, drawn as in training;
and of CONTROL, a run alike that was trained without. `leak` is how far the first pictures are on the way from
the images (or, with a control, from its pictures, which are as imperfect) to the augmented images; `told` how
far the second are from the first: about all the way, 1, or the statistic could not see a leak. Their standard
errors are of the images and pictures alone: two runs that differ in their seed may lie further apart.

Of a run with labels, pictures are of its classes in turn: that is the data's own mix where all are alike.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from ddim.data.augment import augmented
from ddim.data.batch import gather_batch, to_unit
from ddim.runs.classes import assign_labels, choose_label
from ddim.runs.generate import fill_micro_batches, sample_states, with_options
from ddim.runs.images import own_images
from ddim.runs.pipeline import LoadedRun, Pipeline, load

SEEN = 5
"""Standard errors by which augmentation must move a statistic of the images for `leak` to be told."""


def statistics(images: Tensor) -> dict[str, Tensor]:
    """Of each image (B, C, H, W) in [0, 1] a number (B,), by name."""
    gray = images.mean(1)
    half, (h, w) = [size // 2 for size in gray.shape[1:]], [size // 4 for size in gray.shape[1:]]
    # A constant image has no slopes.
    across, down = (gray.diff(dim=dim).square().mean((1, 2)) + 1e-6 for dim in (2, 1))
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
        "from its mirror image": (gray - gray.flip(2)).square().mean((1, 2)).sqrt(),
        "top minus bottom": gray[:, : half[0]].mean((1, 2)) - gray[:, half[0] :].mean((1, 2)),
        "log slope across / down": (across / down).log(),
        "centre minus corners": centre - corners.mean(0),
        **colours,
    }


def pictures(trained: Pipeline, count: int, steps: int, augment: Tensor | None = None) -> Tensor:
    """(count, C, H, W) in [0, 1] of the seeds from 0 on, told of augmentations (count, labels) or of none.

    On the levels of `ddim sample`; of a run with classes these come in turn.
    """
    trained, _ = with_options(trained, {}, steps)
    times, made = trained.recipe.grid(steps, trained.recipe.walked), []
    for mine, filled, blank in fill_micro_batches(trained, range(count)):
        told = None if augment is None else augment[torch.tensor(filled)]
        label = assign_labels(choose_label(trained.recipe), filled, trained.model)
        denoise = trained.denoiser(trained.model.with_labels(label, told))
        with trained.runtime.precise():
            *_, last = sample_states(denoise, blank, filled, times, trained.recipe.sampler)
        made.append(trained.pixels.leave(last.x0[: len(mine)].float()).cpu())
    return torch.cat(made)


def mean(values: Tensor) -> tuple[float, float]:
    """The mean of (B,) values and its standard error."""
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def ratio(top: tuple[float, float], bottom: tuple[float, float]) -> str:
    """The ratio of two independent means with their standard errors, and its own, to first order."""
    value = top[0] / bottom[0]
    return f"{value:>8.2f} +- {math.hypot(top[1], value * bottom[1]) / abs(bottom[0]):.2f}"


def alike(run: LoadedRun, control: LoadedRun) -> bool:
    """Whether a control was trained on a run's images as they are, and on nothing else."""
    d, other = (trained.checkpoint.state.images.fingerprint for trained in (run, control))
    return d == other and not control.recipe.augment.probability and not control.recipe.data.flip


def main() -> None:
    """Make pictures, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("control", type=Path, nargs="?", metavar="CONTROL")
    parser.add_argument("-n", type=int, default=2000, help="pictures (default 2000)")
    parser.add_argument("--steps", type=int, default=20, help="levels of the grid (default 20)")
    args = parser.parse_args()
    trained, control = load(args.run), load(args.control) if args.control else None
    if not trained.recipe.augment.probability or trained.recipe.data.flip:
        parser.error(f"{args.run} must have been trained with augmentation, and with data.flip no")
    if control and not alike(trained, control):
        parser.error(
            f"{args.control} must have been trained on the same images, neither augmented nor flipped"
        )
    own = own_images(trained)
    data = to_unit(gather_batch(own.images, own.train))
    draw = torch.Generator().manual_seed(0)
    labels = trained.recipe.augment.labels(len(data), draw)
    columns = {
        "training images": data,
        "augmented": trained.pixels.leave(augmented(trained.pixels.enter(data), labels)),
        "pictures": pictures(trained, args.n, args.steps),
        "told": pictures(trained, args.n, args.steps, trained.recipe.augment.labels(args.n, draw)),
    }
    if control:
        columns["control"] = pictures(control, args.n, args.steps)
    found = {name: statistics(images) for name, images in columns.items()}
    print(f"{len(data)} training images, {args.n} pictures of each kind, of {args.run.name}")
    print(f"{'':<25}" + "".join(f"{name:>20}" for name in columns) + f"{'leak':>16}{'told':>16}")
    for name in found["pictures"]:
        rows = {column: values[name] for column, values in found.items()}
        cells = "".join(f"{m:>11.4f} +- {e:.4f}" for m, e in map(mean, rows.values()))
        # Pairs of one image, or of one seed, are compared as pairs.
        way = mean(rows["augmented"] - rows["training images"])
        if control:
            leak = mean(rows["pictures"] - rows["control"])
        else:
            (a, a_error), (b, b_error) = mean(rows["pictures"]), mean(rows["training images"])
            leak = a - b, math.hypot(a_error, b_error)
        if abs(way[0]) > SEEN * way[1]:
            cells += ratio(leak, way) + ratio(mean(rows["told"] - rows["pictures"]), way)
        print(f"{name:<25}{cells}", flush=True)


if __name__ == "__main__":
    main()
