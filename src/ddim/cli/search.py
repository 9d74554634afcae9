"""`ddim search`: find the best sampling times or the best guidance for a run and a number of steps."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli import WEIGHTS, check_fields
from ddim.cli.machine import add_machine_options, load_run
from ddim.cli.output import print_result

TAKES_FIELDS = True


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim search`."""
    parser.usage = "ddim search RUN [--guidance] [--steps N] [--sampler NAME] [options]"
    parser.epilog = """
examples:
  ddim search runs/photos-fast-1 --steps 5
  ddim search runs/photos-fast-1 --guidance -n 1000
"""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--steps", type=int, metavar="N", help="sampling steps")
    parser.add_argument("--guidance", action="store_true", help="search for guidance instead of times")
    parser.add_argument("-n", type=int, metavar="N", help="number of samples of each candidate")
    parser.add_argument("--label", metavar="L", help="class name or index (default: all classes)")
    parser.add_argument("--guide-with", metavar="RUN[@NAME]", help="guides to try (default: @guide)")
    parser.add_argument("--save", action=argparse.BooleanOptionalAction, default=True, help="save the result")
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    add_machine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Search for the best sampling times or guidance, and print every candidate."""
    from ddim.cli.console import ProgressDisplay
    from ddim.evaluation.search import search

    check_fields(args, "search", "sampler", "grid")
    options = {name: getattr(args, name) for name in ("guidance", "n", "label", "fields", "save")}
    guides = None if args.guide_with is None else args.guide_with.split(",")
    with ProgressDisplay() as progress:
        found = search(load_run(args), args.steps, guide_with=guides, progress=progress, **options)
    print_result(args, found.to_json(), repr(found))
    return 0
