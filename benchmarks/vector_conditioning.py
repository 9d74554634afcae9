"""Measure how well samples follow the vectors that were asked for, with and without guidance.

The images show a disc whose brightness, hue and radius are given by the vector. A small network is trained on
random vectors. Then other vectors are asked for, the three properties are measured in the samples, and the
correlation of asked and obtained values is printed with its 95 % interval.

    python benchmarks/vector_conditioning.py --images 60000
"""

from __future__ import annotations

import argparse
import colorsys
import json
import math
import tempfile
from pathlib import Path

import numpy as np

import ddim
from ddim.nn.unet import UNetSpec
from ddim.recipe.codec import override
from ddim.recipe.named import find_recipe
from ddim.training import Machine

COLUMNS = ("brightness", "hue", "radius")
SIZE = 16


def draw_vectors(n, seed):
    """Return n random vectors (n, 3): brightness 0.3 to 1, hue 0 to 0.6, radius 2.5 to 6.5 pixels."""
    draw = np.random.default_rng(seed)
    return np.stack([draw.uniform(0.3, 1, n), draw.uniform(0, 0.6, n), draw.uniform(2.5, 6.5, n)], axis=1)


def paint(vectors, seed):
    """Return images (n, 16, 16, 3) uint8 of discs at random places on a dark background."""
    draw = np.random.default_rng([seed, 1])
    down, across = np.mgrid[:SIZE, :SIZE]
    images = []
    for brightness, hue, radius in vectors:
        x, y = draw.uniform(SIZE / 2 - 1.5, SIZE / 2 + 0.5, 2)
        cover = np.clip(radius - np.hypot(down - y, across - x) + 0.5, 0, 1)[..., None]
        colour = np.array(colorsys.hsv_to_rgb(hue, 0.8, brightness))
        images.append(cover * colour + (1 - cover) * 0.05)
    return np.rint(np.array(images) * 255).astype(np.uint8)


def measure(images):
    """Return brightness, hue and radius (n, 3) of images (n, 16, 16, 3) in [0, 1]."""
    found = []
    for image in images:
        light = image.max(-1)
        top = np.quantile(light, 0.97)
        cover = np.clip((light - 0.05) / max(top - 0.05, 1e-3), 0, 1)
        colour = (image * (cover > 0.9)[..., None]).sum((0, 1)) / max(1, (cover > 0.9).sum())
        found.append([top, colorsys.rgb_to_hsv(*colour.clip(0, 1))[0], math.sqrt(cover.sum() / math.pi)])
    return np.array(found)


def correlate(asked, obtained):
    """Return the correlation of two columns and its 95 % interval, by Fisher's z."""
    r = float(np.corrcoef(asked, obtained)[0, 1])
    z, wide = math.atanh(min(r, 0.999999)), 1.96 / math.sqrt(len(asked) - 3)
    return r, math.tanh(z - wide), math.tanh(z + wide)


def train_discs(folder, n, images):
    """Train a small network on n discs for `images` images; return the run folder."""
    vectors = draw_vectors(n, 0)
    np.save(folder / "discs.npy", paint(vectors, 0))
    rows = [",".join(COLUMNS), *(",".join(map(repr, row)) for row in vectors.tolist())]
    (folder / "discs.csv").write_text("\n".join(rows) + "\n")
    net = UNetSpec(
        widths=(24, 48, 64), down=(0, 1, 1), up=(1, 1, 1), attention=(False, False, False), embedding=64
    )
    recipe = override(
        find_recipe("fast", (SIZE, SIZE)),
        {
            "data.size": SIZE,
            "data.vectors": str(folder / "discs.csv"),
            "images": images,
            "report.events": 2,
            "optim.lr": 2e-3,
        },
    )
    recipe = ddim.Recipe(**{**vars(recipe), "net": net})
    machine = Machine("cpu", "fp32", compiling=False, threads=1)
    return ddim.train(str(folder / "discs.npy"), recipe, out=folder / "run", machine=machine, progress=False)


def correlate_samples(run, n, scale, steps=20):
    """Return {column: (r, low, high)} of n samples whose vectors were not in the training set."""
    asked = draw_vectors(n, 1)
    samples = ddim.sample(run, n, steps, vector=asked, guidance=scale, progress=False)
    obtained = measure(samples.permute(0, 2, 3, 1).numpy())
    return {name: correlate(asked[:, k], obtained[:, k]) for k, name in enumerate(COLUMNS)}


def main():
    """Train, sample, and print the correlations as a table and as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--discs", type=int, default=2000, help="number of training images")
    parser.add_argument("--images", type=int, default=60000, help="training length in images")
    parser.add_argument("-n", type=int, default=200, help="number of samples")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = train_discs(Path(folder), args.discs, args.images)
        found = {f"guidance {scale:g}": correlate_samples(run, args.n, scale) for scale in (1, 2)}
    own = measure(paint(draw_vectors(args.n, 1), 2) / 255)
    asked = draw_vectors(args.n, 1)
    found["painted discs"] = {name: correlate(asked[:, k], own[:, k]) for k, name in enumerate(COLUMNS)}
    for how, rows in found.items():
        print(
            how,
            *(f"{name} {r:.3f} [{low:.3f}, {high:.3f}]" for name, (r, low, high) in rows.items()),
            sep="  ",
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
