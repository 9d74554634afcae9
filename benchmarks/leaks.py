"""Measure whether the augmentation of training images shows in samples.

    python benchmarks/leaks.py RUN [CONTROL] [-n 2000] [--steps 20]

Prints statistics that mirroring, rotation, stretching and shifting change, each a mean with its standard
error, of
  - the training images of the run,
  - the same images augmented as in training,
  - samples of the run, conditioned on no augmentation, as `ddim sample` does,
  - samples of the same seeds, conditioned on augmentations drawn as in training,
  - samples of CONTROL, a run of the same recipe without augmentation.

`leak` is (samples - images) / (augmented - images); with CONTROL, it is (samples - samples of CONTROL) /
(augmented - images). `conditioned` is (conditioned samples - samples) / (augmented - images); if it is not
about 1, the statistic cannot show a leak. The standard errors leave out the variation between runs: two runs
of different seeds may differ by more.

For a run with labels, samples are of its classes in turn. If all classes have equally many images, samples
and training images have the same class frequencies.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ddim.data.augment import apply_transformations, prepare_transformations
from ddim.data.images import gather_batch, to_unit
from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.samplers import State
from ddim.sampling.generate import generate, sample_states
from ddim.sampling.images import open_run_images
from ddim.sampling.labels import choose_label
from ddim.sampling.pipeline import LoadedRun, Pipeline, load
from ddim.sampling.sampling_setup import OFF, choose_sampling

SEEN = 5
"""Standard errors by which augmentation must move a statistic of the images for `leak` to be meaningful."""


def statistics(images: Tensor) -> dict[str, Tensor]:
    """Return statistics (B,) of images (B, C, H, W) in [0, 1] by name."""
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


def sample_images(trained: Pipeline, count: int, steps: int, augment: Tensor | None = None) -> Tensor:
    """Sample (count, C, H, W) in [0, 1], seeds from 0, conditioned on augmentations (count, labels) or none.

    The sampling times are those of `ddim sample`; classes come in turn.
    """
    setup = choose_sampling(trained, steps, choose_label(trained.recipe), guidance=OFF)
    trained = setup.pipeline

    def walk(_denoise: Denoiser, blank: Tensor, seeds: Sequence[int]) -> Iterator[State]:
        labels = trained.assign_labels(setup.label, seeds)
        conditions = None if augment is None else augment[torch.tensor(seeds)]
        denoise = trained.denoiser(trained.model.with_labels(labels, conditions))
        return sample_states(denoise, blank, seeds, setup.times, trained.recipe.sampler)

    return generate(setup, range(count), walk=walk)[0]


def mean(values: Tensor) -> tuple[float, float]:
    """Return the mean of (B,) values and its standard error."""
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def ratio(top: tuple[float, float], bottom: tuple[float, float]) -> str:
    """Return the ratio of two independent means and its standard error to first order."""
    value = top[0] / bottom[0]
    return f"{value:>8.2f} +- {math.hypot(top[1], value * bottom[1]) / abs(bottom[0]):.2f}"


def alike(run: LoadedRun, control: LoadedRun) -> bool:
    """Return whether a control was trained on the images of the run, without augmentation and flips."""
    d, other = (trained.checkpoint.state.images.fingerprint for trained in (run, control))
    return d == other and not control.recipe.augment.probability and not control.recipe.data.flip


def main() -> None:
    """Sample, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("control", type=Path, nargs="?", metavar="CONTROL")
    parser.add_argument("-n", type=int, default=2000, help="number of samples (default: 2000)")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps (default: 20)")
    args = parser.parse_args()
    trained, control = load(args.run), load(args.control) if args.control else None
    if not trained.recipe.augment.probability or trained.recipe.data.flip:
        parser.error(f"{args.run} must have been trained with augmentation, and with data.flip no")
    if control and not alike(trained, control):
        parser.error(
            f"{args.control} must have been trained on the same images, neither augmented nor flipped"
        )
    own = open_run_images(trained)
    data = to_unit(gather_batch(own.images, own.train))
    draw = torch.Generator().manual_seed(0)
    labels = trained.recipe.augment.draw_labels(len(data), draw)
    done = prepare_transformations(labels, *data.shape[2:])
    columns = {
        "training images": data,
        "augmented": trained.pixels.leave(apply_transformations(trained.pixels.enter(data), done)),
        "samples": sample_images(trained, args.n, args.steps),
        "conditioned": sample_images(
            trained, args.n, args.steps, trained.recipe.augment.draw_labels(args.n, draw)
        ),
    }
    if control:
        columns["control"] = sample_images(control, args.n, args.steps)
    found = {name: statistics(images) for name, images in columns.items()}
    print(f"{len(data)} training images, {args.n} samples of each kind, of {args.run.name}")
    print(f"{'':<25}" + "".join(f"{name:>20}" for name in columns) + f"{'leak':>16}{'conditioned':>16}")
    for name in found["samples"]:
        rows = {column: values[name] for column, values in found.items()}
        cells = "".join(f"{m:>11.4f} +- {e:.4f}" for m, e in map(mean, rows.values()))
        # Two values of one image, or of one seed, are paired.
        way = mean(rows["augmented"] - rows["training images"])
        if control:
            leak = mean(rows["samples"] - rows["control"])
        else:
            (a, a_error), (b, b_error) = mean(rows["samples"]), mean(rows["training images"])
            leak = a - b, math.hypot(a_error, b_error)
        if abs(way[0]) > SEEN * way[1]:
            cells += ratio(leak, way) + ratio(mean(rows["conditioned"] - rows["samples"]), way)
        print(f"{name:<25}{cells}", flush=True)


if __name__ == "__main__":
    main()
