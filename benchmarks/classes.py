"""Measure whether a run trained with labels samples the classes that it is asked for.

    python benchmarks/classes.py RUN [-n 500] [--steps 20] [--guidance 1,2,4]

Samples are of all classes in turn. A sample is assigned to the class of most of its `NEIGHBOURS` nearest
training images, in features of EfficientNet-Lite0; each class has equally many training images. The table
shows the share of samples assigned to their own class, with a 95 % interval, beside that of held-out images.
The share of the held-out images is no upper bound: with guidance, samples can be more typical of their class
than real images are. The table also shows KID against the held-out images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ddim.metrics.features import extract_features, load_extractor
from ddim.metrics.kid import kid
from ddim.metrics.neighbours import flatten_features, nearest_neighbours
from ddim.metrics.statistics import estimate_share
from ddim.sampling.generate import sample_uint8
from ddim.sampling.images import open_run_images
from ddim.sampling.pipeline import load
from ddim.sampling.sampling_setup import Guidance, choose_sampling

KNOWN, NEIGHBOURS = 5000, 20
"""Number of training images to search, and number of nearest ones that vote on the class of a sample."""


def evenly(which: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Return at most `count` of the indices, equally many of each class, drawn at random."""
    which = np.random.default_rng(0).permutation(which)
    groups = [which[labels[which] == k] for k in np.unique(labels[which])]
    each = min(count // len(groups), *map(len, groups))
    return np.concatenate([group[:each] for group in groups])


def vote(found: np.ndarray, classes: int) -> np.ndarray:
    """Return the most frequent class (N,) in each row of the neighbours' classes `found` (N, k).

    The neighbours are sorted by distance. In a tie, the class of the nearest neighbour wins.
    """
    votes = np.stack([(found == k).sum(1) for k in range(classes)], 1)
    most = np.take_along_axis(votes, found, 1) == votes.max(1, keepdims=True)
    return found[np.arange(len(found)), most.argmax(1)]


def main() -> None:
    """Sample, assign classes, and print a line for each guidance scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("-n", type=int, default=500, help="number of samples (default: 500)")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps (default: 20)")
    parser.add_argument(
        "--guidance", default="1,2,4", metavar="W,...", help="guidance scales (default: 1,2,4)"
    )
    args = parser.parse_args()
    trained, strengths = load(args.run), [float(guidance) for guidance in args.guidance.split(",")]
    setups = [choose_sampling(trained, args.steps, "all", guidance=Guidance(scale)) for scale in strengths]
    own, count = open_run_images(trained), trained.model.classes
    images, labels = own.images.pixels, own.images.labels
    if labels is None or min(args.n, len(own.validation)) < max(count, 3):
        parser.error("needs a run with labels, and at least as many samples and held-out images as classes")
    extractor = load_extractor()
    known, some = evenly(own.train, labels, KNOWN), evenly(own.validation, labels, args.n)
    train, real = extract_features(extractor, images[known]), extract_features(extractor, images[some])

    def print_row(name: str, features: np.ndarray, wanted: np.ndarray) -> None:
        found = labels[known][
            nearest_neighbours(features, [train], NEIGHBOURS, embed=flatten_features).indices
        ]
        right = int((vote(found, count) == wanted).sum())
        s = estimate_share(right, len(wanted))
        share = f"{100 * s.value:.1f} % [{100 * s.low:.1f}, {100 * s.high:.1f}] of {len(wanted)}"
        print(f"{name:<18}{share:>28}", end="", flush=True)

    print_row("held-out images", real, labels[some])
    for guidance, setup in zip(strengths, setups, strict=True):
        parts = sample_uint8(setup, range(args.n))
        samples = np.concatenate([part.permute(0, 2, 3, 1).numpy() for part, _ in parts])
        features = extract_features(extractor, samples)
        print()
        print_row(f"guidance {guidance:g}", features, np.arange(args.n) % count)
        far = kid(features, real)
        print(f", KID {far.value:.4f} [{far.low:.4f}, {far.high:.4f}]", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
