"""KID between two sets of images, on the library's default features.

    python benchmarks/kid.py SAMPLES REFERENCE [--size 64]

Needs `pip install 'ddim[metrics]'`; nothing is downloaded. The numbers compare with one another and with no
published KID, which uses the features of a 2015 Inception.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.data import open_images, parse_size
from ddim.metrics.features import extract, find
from ddim.metrics.kid import kid


def main() -> None:
    """Print the KID of two image sources."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("samples", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--size", default="64")
    args = parser.parse_args()
    extractor = find()
    a, b = (
        extract(extractor, open_images(str(path), parse_size(args.size), 3).pixels)
        for path in (args.samples, args.reference)
    )
    found = kid(a, b)
    print(
        f"KID ({extractor.name}) {found.value:.4f}, 95 % in {found.low:.4f} ... {found.high:.4f}, "
        f"{len(a)} against {len(b)} images"
    )


if __name__ == "__main__":
    main()
