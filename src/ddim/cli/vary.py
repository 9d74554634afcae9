"""`ddim vary`: other pictures like an image."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli import RUN, editing
from ddim.errors import UserError, check_count

TAKES_FIELDS = True

_EPILOG = """
The image is noised to time STRENGTH and denoised again (SDEdit): 0.3 changes its details, 0.6 its shapes, 1
nearly all. DIR gets the pictures, strip.png and record.json.

example:
  ddim vary runs/photos-fast-1 rose.jpg --strength 0.5 -n 8
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim vary`."""
    parser.usage = "ddim vary RUN IMAGE [--strength 0.5] [-n 8] [--steps 50] [options]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN)
    parser.add_argument("image", type=Path, metavar="IMAGE", help="an image file")
    parser.add_argument("--strength", type=float, default=0.5, metavar="T", help="in (0, 1], default 0.5")
    parser.add_argument("-n", type=int, default=8, metavar="N", help="how many pictures (default 8)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seeds S ... S+N-1 (default 0)")
    editing.add_options(parser, 50)


def run(args: argparse.Namespace) -> int:
    """Vary the image, and print where the results are."""
    from ddim.runs.edit import vary_image

    check_count("-n", args.n)
    if not 0 < args.strength <= 1:
        raise UserError(f"--strength must lie in (0, 1], got {args.strength}")
    run, grid = editing.open_run(args, "vary")
    image = editing.read(run, [args.image])
    seeds = range(args.seed, args.seed + args.n)
    edit = vary_image(run, image, args.strength, seeds, args.steps, grid=grid)
    out = editing.save(args, "vary", edit, {"image": str(args.image)})
    editing.write_line(f"{args.n} images: {out}/strip.png")
    return 0
