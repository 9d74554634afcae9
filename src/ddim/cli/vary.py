"""`ddim vary`: generate variations of an image."""

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
Adds noise to the image up to time T and denoises it again (SDEdit, Meng et al. 2022). DIR gets the images,
strip.png and record.json.
{guidance}

example:
  ddim vary runs/photos-fast-1 rose.jpg --strength 0.5 -n 8
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim vary`."""
    parser.usage = "ddim vary RUN IMAGE [--strength 0.5] [-n 8] [--steps 50] [options]"
    parser.epilog = _EPILOG.format(guidance=LABEL_FREE)
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN)
    parser.add_argument("image", type=Path, metavar="IMAGE", help="an image file")
    parser.add_argument(
        "--strength",
        type=float,
        default=0.5,
        metavar="T",
        help="time in (0, 1]: 0.3 changes details, 0.6 shapes, 1 nearly everything (default: 0.5)",
    )
    editing.add_seed_options(parser, 8)
    editing.add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Vary the image and print the path of the results."""
    from ddim.sampling.edits import vary_image

    check_count("-n", args.n)
    editing.check_options(args, "vary")
    seeds = range(args.seed, args.seed + args.n)
    act = partial(vary_image, image=args.image, strength=args.strength, seeds=seeds)
    _, out = editing.edit_and_save(args, act)
    print_result(args, read_result(out), f"{format_count(args.n, 'image')}: {out}/strip.png", out)
    return 0
