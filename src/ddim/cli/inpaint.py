"""`ddim inpaint`: paint a part of an image anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli import RUN, editing
from ddim.errors import check_count

TAKES_FIELDS = True

_EPILOG = """
What is white in MASK, an image of the same size as IMAGE, is painted; the rest stays as it is, pixel by
pixel. Each level is done --resample times, noised back in between, so that both parts come to agree
(RePaint). DIR gets the pictures, strip.png and record.json.

example:
  ddim inpaint runs/photos-fast-1 rose.jpg --mask hole.png -n 4
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim inpaint`."""
    parser.usage = "ddim inpaint RUN IMAGE --mask MASK [-n 4] [--steps 50] [--resample 5] [options]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN)
    parser.add_argument("image", type=Path, metavar="IMAGE", help="an image file")
    parser.add_argument("--mask", type=Path, required=True, help="an image, white where to paint")
    parser.add_argument("-n", type=int, default=4, metavar="N", help="how many pictures (default 4)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seeds S ... S+N-1 (default 0)")
    parser.add_argument(
        "--resample", type=int, default=5, metavar="R", help="times that each level is done (default 5)"
    )
    editing.add_options(parser, 50)


def run(args: argparse.Namespace) -> int:
    """Paint, and print where the results are."""
    from ddim.runs.edit import inpaint_image
    from ddim.runs.edit_files import read_hole

    check_count("-n", args.n)
    check_count("--resample", args.resample)
    run, grid = editing.open_run(args, "inpaint")
    image = editing.read(run, [args.image])
    hole = read_hole(args.mask, args.image, (image.shape[2], image.shape[3]), editing.write_line)
    seeds = range(args.seed, args.seed + args.n)
    edit = inpaint_image(run, image, hole, seeds, args.steps, resample=args.resample, grid=grid)
    out = editing.save(args, "inpaint", edit, {"image": str(args.image), "mask": str(args.mask)})
    editing.write_line(f"{args.n} images: {out}/strip.png")
    return 0
