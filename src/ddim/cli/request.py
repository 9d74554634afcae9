"""The options that choose what to train: the images, the recipe and its fields."""

from __future__ import annotations

import argparse

from ddim.cli import DATA
from ddim.cli.own import names_own


def add_request_options(parser: argparse.ArgumentParser, default: str) -> None:
    """Add DATA, --recipe, --images, --size and --seed.

    A command that also sets `TAKES_FIELDS = True` accepts each field of a recipe as an option.

    Args:
        parser: the parser of the command.
        default: the images that the command uses without DATA, in words for --help.
    """
    parser.add_argument("data", nargs="?", metavar="DATA", help=f"{DATA} (default: {default})")
    parser.add_argument(
        "--recipe", metavar="NAME|FILE", help="a name from the list below, or a YAML file (default: fast)"
    )
    parser.add_argument(
        "--images",
        metavar="N",
        help="number of training images to see, repetitions counted, instead of --minutes",
    )
    parser.add_argument("--size", metavar="64|64x96", help="height x width in pixels (default: the recipe's)")
    parser.add_argument(
        "--seed", metavar="S", help="seed of weights, image order, noise and split (default: 0)"
    )


def read_fields(args: argparse.Namespace) -> dict[str, str]:
    """Return the fields of the recipe that the options set, as text keyed by field path."""
    plain = {
        "data.source": None if names_own(args.data) else args.data,
        "images": args.images,
        "minutes": args.minutes,
        "seed": args.seed,
        "data.size": args.size,
    }
    return {**args.fields, **{name: value for name, value in plain.items() if value is not None}}
