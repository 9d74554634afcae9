"""`ddim inpaint`: generate new content for the masked part of an image."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from ddim.cli import RUN, editing
from ddim.cli.guidance import LABEL_FREE
from ddim.cli.output import print_result, read_result
from ddim.errors import check_count, format_count

TAKES_FIELDS = True

_EPILOG = """
The pixels that are white in MASK, an image with the proportions of IMAGE or of the run's images, are
generated anew; the other pixels do not change. MASK may also be IMAGE with an erased part, which is
transparent, or a layer of white strokes. Each step is done --resample times, with noise added again in
between, so that both parts agree (RePaint, Lugmayr et al. 2022). DIR gets the images, strip.png and
record.json.
{guidance}

example:
  ddim inpaint runs/photos-fast-1 rose.jpg --mask mask.png -n 4
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim inpaint`."""
    parser.usage = "ddim inpaint RUN IMAGE --mask MASK [-n 4] [--steps 50] [--resample 5] [options]"
    parser.epilog = _EPILOG.format(guidance=LABEL_FREE)
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN)
    parser.add_argument("image", type=Path, metavar="IMAGE", help="an image file")
    parser.add_argument(
        "--mask",
        type=Path,
        required=True,
        help="an image file; its white or erased pixels are generated anew",
    )
    editing.add_seed_options(parser, 4)
    parser.add_argument(
        "--resample",
        type=int,
        default=5,
        metavar="R",
        help="number of times each step is done, with noise added in between (RePaint; default: 5)",
    )
    editing.add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Inpaint the image and print the path of the results."""
    from ddim.sampling.edits import inpaint_image

    check_count("-n", args.n)
    check_count("--resample", args.resample)
    editing.check_options(args, "inpaint")
    seeds = range(args.seed, args.seed + args.n)
    act = partial(inpaint_image, image=args.image, mask=args.mask, seeds=seeds, resample=args.resample)
    _, out = editing.edit_and_save(args, act)
    print_result(args, read_result(out), f"{format_count(args.n, 'image')}: {out}/strip.png", out)
    return 0
