"""`ddim cache`: show the contents of the cache, and clear it."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ddim.cli.output import print_result

_EPILOG = """
The cache folder is $DDIM_CACHE, or else the user's cache folder. Everything in it can be computed or
downloaded again. Do not clear it while other commands of ddim run.

Its parts:
  images      decoded data sets
  stamps      notes which files the decoded data sets belong to
  features    samples, and features of samples and images
  compiler    compiled networks
  downloads   built-in data sets
  hub         files of the Hugging Face Hub
  weights     weights of feature networks

examples:
  ddim cache
  ddim cache --clear images features
  ddim cache --clear all
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim cache`."""
    parser.usage = "ddim cache [--clear PART [PART ...]]"
    parser.epilog = _EPILOG
    parser.add_argument(
        "--clear",
        nargs="+",
        default=[],
        metavar="PART",
        help='remove parts: images, stamps, features, compiler, downloads, hub, weights, or "all" of them',
    )


def run(args: argparse.Namespace) -> int:
    """Clear the named parts of the cache, or print the size of every part."""
    from ddim.experiments.cache_parts import PARTS, clear_cache, list_cache
    from ddim.files import cache_folder

    folder = cache_folder()
    if args.clear:
        freed = clear_cache(PARTS if "all" in args.clear else args.clear)
        print_result(args, {"folder": folder, "freed": freed}, f"{_megabytes(freed)} freed in {folder}")
        return 0
    parts = list_cache()
    lines = [
        f"  {part.name:<9} {_megabytes(part.bytes):>10}  {len(part.entries):>5}  {part.about}"
        for part in parts
    ]
    total = sum(part.bytes for part in parts)
    print_result(
        args,
        {"folder": folder, "bytes": total, "parts": [asdict(part) for part in parts]},
        "\n".join([f"{folder}: {_megabytes(total)}", *lines, "`ddim cache --clear PART` removes a part"]),
    )
    return 0


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
