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
    editing.options(parser, 50)


def run(args: argparse.Namespace) -> int:
    """Vary and write."""
    import torch

    from ddim.diffusion.editing import vary
    from ddim.diffusion.noise import Noise, check_seeds
    from ddim.diffusion.samplers import DDIM, last, picture
    from ddim.runs.generate import fill_micro_batches

    check_count("-n", args.n)
    if not 0 < args.strength <= 1:
        raise UserError(f"--strength must lie in (0, 1], got {args.strength}")
    seeds = range(args.seed, args.seed + args.n)
    check_seeds((seeds[0], seeds[-1]))
    work = editing.opened(args, "vary")
    image = editing.read(work, [args.image])
    model, made, out = work.model, [], editing.folder(args.out, "vary")
    for mine, filled, blank in fill_micro_batches(work.trained, seeds):
        x0 = blank + work.enter(image).to(blank)
        with work.precise():
            states = vary(model, x0, args.strength, work.times, DDIM(), Noise(filled))
            made.append(work.leave(picture(model, last(states)))[: len(mine)])
    pictures = torch.cat(made)
    work.save(
        out,
        {"image": image, "varied": pictures},
        {
            "image": str(args.image),
            "strength": args.strength,
            "seed": args.seed,
            "times": [args.strength, *work.times[work.times < args.strength].tolist()],
        },
    )
    return editing.said(out, f"{args.n} pictures")
