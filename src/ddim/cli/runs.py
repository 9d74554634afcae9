"""`ddim runs`: list runs, and the trials of sweeps, in a table."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli.output import print_result

_EPILOG = """
FIELD is name, recipe, images, total, state, age, noise_mae, image_mae, a metric of `ddim evaluate` such as
kid or fid, or a field of a recipe such as optim.lr. States are waiting (a trial that no worker has started),
running, stopped, finished, failed (a trial; its last message follows the table), damaged.

A metric is marked with * if it is not comparable with the metrics of most of these runs: it was measured
under different conditions, or at an earlier step of a finished run. Lines after the table state the reason,
the images and features of kid, and evaluations that cannot be read. `left` is the estimated time that a
running run still needs. In a pipe the columns are separated by tabs, and - stands for a missing value.

examples:
  ddim runs --sort image_mae
  ddim runs --where schedule=cosine --where state=finished
  ddim runs runs/photos-fast-sweep-1 --sort kid | head -2 | cut -f 1
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim runs`."""
    parser.usage = "ddim runs [FOLDER] [--sort FIELD] [--where FIELD=VALUE ...]"
    parser.epilog = _EPILOG
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        metavar="FOLDER",
        help="folder to search, with its subfolders (default: runs)",
    )
    parser.add_argument(
        "--sort", metavar="FIELD", help="smallest first; for age, youngest first (default: name)"
    )
    parser.add_argument(
        "--where", action="append", default=[], metavar="FIELD=VALUE", help="only runs with this value"
    )


def run(args: argparse.Namespace) -> int:
    """Print the table of runs."""
    from ddim.experiments.run_table import list_runs

    found = list_runs(args.folder or "runs", sort=args.sort, where=args.where)
    print_result(args, found.to_json(), str(found))
    return 0
