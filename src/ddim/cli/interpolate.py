"""`ddim interpolate`: blend two samples or two real images through their latents."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from ddim.cli import RUN, editing
from ddim.cli.guidance import LABEL_FREE
from ddim.cli.output import print_result, read_result
from ddim.errors import UserError, check_count

TAKES_FIELDS = True

_EPILOG = """
Blends the samples of two seeds, or two real images, which are inverted first. The latents are interpolated
along the sphere on which noise lies; on a straight line, images would lose their contrast. DIR gets the
frames, strip.png, film.webp and record.json. Only samples of --seeds can be guided.
{guidance}

examples:
  ddim interpolate runs/photos-fast-1 --seeds 3,8
  ddim interpolate runs/photos-fast-1 rose.jpg lily.jpg --frames 16
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim interpolate`."""
    parser.usage = "ddim interpolate RUN (--seeds A,B | IMAGE IMAGE) [--frames 9] [--steps 50] [options]"
    parser.epilog = _EPILOG.format(guidance=LABEL_FREE)
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN)
    parser.add_argument("images", type=Path, nargs="*", metavar="IMAGE", help="two image files")
    parser.add_argument("--seeds", metavar="A,B", help="two seeds instead of two images")
    parser.add_argument(
        "--frames", type=int, default=9, metavar="N", help="number of frames, ends included (default: 9)"
    )
    editing.add_options(parser, classless=True)


def run(args: argparse.Namespace) -> int:
    """Interpolate and print the path of the frames."""
    from ddim.sampling.edits import interpolate

    check_count("--frames", args.frames, 2)
    editing.check_options(args, "interpolate")
    seeds = None if args.seeds is None else _seeds(args.seeds)
    act = partial(interpolate, images=args.images or None, frames=args.frames, seeds=seeds)
    _, out = editing.edit_and_save(args, act, real=seeds is None)
    print_result(args, read_result(out), f"{args.frames} frames: {out}/strip.png", out)
    return 0


def _seeds(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise UserError(f"--seeds must be two seeds, such as 3,8, got {text!r}")
    return list(map(int, parts))
