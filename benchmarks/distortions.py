"""Measure whether the metrics notice what eyes notice: distorted real images against other real images.

    python benchmarks/distortions.py DATA [--size 64] [--images 300] [--features efficientnet-lite0]

Prints a Markdown table. One random half of the images is distorted in four ways at three strengths each, and
compared with the other half: KID, its 95 % interval, FID, precision and recall. The first row has no
distortion: its interval should hold 0.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageFilter

from ddim.data import open_images, parse_size
from ddim.metrics.catalogue import DEFAULT
from ddim.metrics.features import Extractor, extract_features, load_extractor
from ddim.metrics.fid import fid
from ddim.metrics.kid import kid
from ddim.metrics.prdc import prdc


def blurred(image: Image.Image, radius: float) -> Image.Image:
    """Blur by a Gaussian with this standard deviation in pixels."""
    return image.filter(ImageFilter.GaussianBlur(radius))


def compressed(image: Image.Image, quality: float) -> Image.Image:
    """Compress and decompress as JPEG at this quality."""
    file = io.BytesIO()
    image.save(file, "jpeg", quality=int(quality))
    return Image.open(file)


def noisy(image: Image.Image, deviation: float) -> Image.Image:
    """Add normal noise of this standard deviation in steps of 1/255, the same for every image."""
    noise = deviation * np.random.default_rng(0).standard_normal((image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def pixelated(image: Image.Image, side: float) -> Image.Image:
    """Replace squares of this side in pixels by their mean."""
    few = image.resize((image.width // int(side), image.height // int(side)), Image.Resampling.BOX)
    return few.resize(image.size, Image.Resampling.NEAREST)


# Each with three strengths, the weakest first.
DISTORTIONS: dict[str, tuple[Callable[[Image.Image, float], Image.Image], tuple[float, ...]]] = {
    "blur, deviation in pixels": (blurred, (0.5, 1, 2)),
    "JPEG, quality": (compressed, (60, 25, 8)),
    "noise, deviation of 255": (noisy, (8, 20, 50)),
    "pixelation, pixels": (pixelated, (2, 4, 8)),
}


def distorted(
    extractor: Extractor, images: np.ndarray
) -> Iterator[tuple[str, float | None, np.ndarray, np.ndarray]]:
    """Yield (distortion, strength, features of one half, features of the other) of (N, H, W, 3) uint8 images.

    The first has no distortion.
    """
    order = np.random.default_rng(0).permutation(len(images))
    half, rest = images[np.sort(order[::2])], images[np.sort(order[1::2])]
    reference = extract_features(extractor, rest)
    yield "none", None, extract_features(extractor, half), reference
    for name, (distort, strengths) in DISTORTIONS.items():
        for strength in strengths:
            changed = [np.asarray(distort(Image.fromarray(image), strength)) for image in half]
            yield name, strength, extract_features(extractor, np.stack(changed)), reference


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--size", default="64")
    parser.add_argument("--images", type=int, default=300, help="how many, half of them distorted")
    parser.add_argument("--features", default=DEFAULT)
    args = parser.parse_args()
    images = open_images(args.data, parse_size(args.size), 3).pixels
    chosen = np.random.default_rng(1).permutation(len(images))[: args.images]
    extractor = load_extractor(args.features)
    print(f"| distortion | strength | KID ({extractor.name}) | 95 % interval | FID | precision | recall |")
    print("|---|---|---|---|---|---|---|")
    for name, strength, found, reference in distorted(extractor, images[np.sort(chosen)]):
        k, overlap = kid(found, reference), prdc(found, reference)
        print(
            f"| {name} | {'' if strength is None else strength} | {k.value:.4f} "
            f"| {k.low:.4f} ... {k.high:.4f} | {fid(found, reference):.2f} "
            f"| {overlap.precision:.2f} | {overlap.recall:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
