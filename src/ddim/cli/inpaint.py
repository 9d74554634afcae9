"""`ddim inpaint`: paint a part of an image anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli import editing
from ddim.errors import UserError

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
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or one of its checkpoints")
    parser.add_argument("image", type=Path, metavar="IMAGE", help="an image file")
    parser.add_argument("--mask", type=Path, required=True, help="an image, white where to paint")
    parser.add_argument("-n", type=int, default=4, metavar="N", help="how many pictures (default 4)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seeds S ... S+N-1 (default 0)")
    parser.add_argument(
        "--resample", type=int, default=5, metavar="R", help="times that each level is done (default 5)"
    )
    editing.options(parser, 50)


def run(args: argparse.Namespace) -> int:
    """Paint and write."""
    from ddim.editing import Inpaint
    from ddim.noise import Noise
    from ddim.samplers import last, start

    if args.n < 1:
        raise UserError(f"-n must be at least 1, got {args.n}")
    noise = Noise(range(args.seed, args.seed + args.n))
    work = editing.opened(args, "inpaint")
    image = editing.read(work, [args.image])
    hole = (editing.read(work, [args.mask], 1) > 0.5).float()
    if not 0 < hole.mean() < 1:
        raise UserError(f"--mask {str(args.mask)!r} must have white to paint, and black to keep")
    model = work.trained.model
    with work.precise():
        painter = Inpaint(work.enter(image), work.trained.runtime.images(hole), args.resample)
        x = start(model.schedule, noise, work.trained.runtime.images(model.blank(args.n)), work.times[0])
        painted = work.leave(last(painter(model, x, work.times, noise)).x0)
    # The bytes of the image itself, not what is left of them after two changes of unit.
    painted = painted * hole + image * (1 - hole)
    work.save(
        {"image": image, "hole": image * (1 - hole) + hole, "painted": painted},
        {"image": str(args.image), "mask": str(args.mask), "resample": args.resample, "seed": args.seed},
    )
    return editing.said(work, f"{args.n} pictures")
