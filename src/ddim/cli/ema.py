"""`ddim ema`: choose the width of the average of a run's weights, after training."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli import RUN
from ddim.cli.machine import add_machine_options
from ddim.cli.output import print_result


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim ema`."""
    parser.usage = "ddim ema RUN [--width W] [--pick validation|kid] [-n 500] [--name NAME] [options]"
    parser.epilog = """
examples:
  ddim ema runs/photos-fast-1 --pick validation
  ddim ema runs/photos-fast-1 --width 0.08
"""
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN)
    parser.add_argument("--width", type=float, metavar="W", help="relative width, such as 0.05")
    parser.add_argument("--pick", choices=("validation", "kid"), help="try several widths, keep the best")
    parser.add_argument("-n", type=int, default=500, metavar="N", help="samples per width (default: 500)")
    parser.add_argument("--name", help="name of the stored average (default: width-W or picked)")
    add_machine_options(parser)


def run(args: argparse.Namespace) -> int:
    """List the widths, reconstruct the average of one width, or choose the best width."""
    from ddim.cli.console import ProgressDisplay
    from ddim.evaluation.averages import ema
    from ddim.sampling.pipeline import load

    given = load(args.run, device=args.device, threads=args.threads) if args.pick else args.run
    with ProgressDisplay() as progress:
        found = ema(given, args.width, pick=args.pick, n=args.n, name=args.name, progress=progress)
    print_result(args, found.to_json(), repr(found), found.folder)
    return 0
