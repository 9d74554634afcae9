"""`ddim inpaint`: paint a part of an image anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli import RUN, editing
from ddim.errors import UserError, check_count

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
    editing.options(parser, 50)


def run(args: argparse.Namespace) -> int:
    """Paint and write."""
    import torch

    from ddim.diffusion.editing import Inpaint
    from ddim.diffusion.noise import Noise, check_seeds
    from ddim.diffusion.samplers import last, picture, start
    from ddim.runs.generate import fill_micro_batches

    check_count("-n", args.n)
    check_count("--resample", args.resample)
    seeds = range(args.seed, args.seed + args.n)
    check_seeds((seeds[0], seeds[-1]))
    work = editing.opened(args, "inpaint")
    image = editing.read(work, [args.image])
    hole = (editing.read(work, [args.mask], 1) > 0.5).float()
    sizes = [editing.size_of(path) for path in (args.image, args.mask)]
    if sizes[0] != sizes[1]:
        (h, w), (mask_h, mask_w) = sizes
        raise UserError(f"--mask must be of the size of the image, {h}x{w}, got {mask_h}x{mask_w}")
    if not 0 < hole.mean() < 1:
        raise UserError(f"--mask {str(args.mask)!r} must have white to paint, and black to keep")
    model, made, out = work.model, [], editing.folder(args.out, "inpaint")
    painter = Inpaint(work.enter(image), hole, args.resample)
    for mine, filled, blank in fill_micro_batches(work.trained, seeds):
        noise = Noise(filled)
        with work.precise():
            x = start(model.schedule, noise, blank, work.times[0])
            made.append(work.leave(picture(model, last(painter(model, x, work.times, noise))))[: len(mine)])
    painted = torch.cat(made)
    # The bytes of the image itself, not what is left of them after two changes of unit.
    painted = painted * hole + image * (1 - hole)
    work.save(
        out,
        {"image": image, "hole": image * (1 - hole) + hole, "painted": painted},
        {"image": str(args.image), "mask": str(args.mask), "resample": args.resample, "seed": args.seed},
    )
    return editing.said(out, f"{args.n} pictures")
