"""`ddim runs`: a table of runs, and of the trials of sweeps."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ddim.cli.tables import print_table, print_tabs
from ddim.errors import UserError

if TYPE_CHECKING:
    from ddim.experiments.index import Run

_EPILOG = """
FIELD is name, recipe, images, total, state, age, noise_mae, image_mae, a metric of `ddim evaluate` such as
kid or fid, or a field of a recipe such as optim.lr. States are waiting (a trial that no one has begun),
running, stopped, finished, failed (a trial: its last words follow the table), damaged. What cannot be read,
such as the record of an evaluation, is left out and named after the table. So is an evaluation that was not
made as most of these runs' were, or not of the last step of a finished run.
In a pipe the table has tabs between its columns, and - where there is nothing.

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
        default=Path("runs"),
        metavar="FOLDER",
        help="where to look, all the way down (default runs)",
    )
    parser.add_argument("--sort", metavar="FIELD", help="least first, youngest first for age (default: name)")
    parser.add_argument(
        "--where", action="append", default=[], metavar="FIELD=VALUE", help="only runs with this value"
    )


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from ddim.experiments import conditions as ways
    from ddim.experiments import index as runs

    conditions = {}
    for text in args.where:
        name, equals, wanted = text.partition("=")
        if not equals:
            raise UserError(f"--where must be FIELD=VALUE, got {text!r}")
        conditions[name] = wanted
    found = ways.alike(runs.where(runs.find(args.folder), conditions))
    if args.sort:
        found = runs.ordered(found, args.sort)
    head = ("name", "recipe", "images", "state", "noise_mae", "image_mae", "kid", "age")
    rows = [_row(each, args.folder) for each in found]
    if sys.stdout.isatty():
        print_table(head, rows)
    else:
        print_tabs([head, *rows])
    for each in found:
        if each.why:
            sys.stderr.write(f"{_name(each, args.folder)}: {each.why}\n")
    return 0


def _row(run: Run, folder: Path) -> tuple[str, ...]:
    numbers = {**run.errors, "kid": run.metrics.get("kid")}
    shown = [numbers.get(name) for name in ("noise_mae", "image_mae", "kid")]
    return (
        _name(run, folder),
        run.recipe.get("name") or "-",
        f"{run.images}/{run.total or '-'}",
        run.state,
        *("-" if value is None else f"{value:.4f}" for value in shown),
        _age(time.time() - run.changed) if run.changed else "-",
    )


def _name(run: Run, folder: Path) -> str:
    path = run.path.relative_to(folder)
    return str(path) if path.parts else run.path.name


def _age(seconds: float) -> str:
    """90 -> "1m", 7300 -> "2h": whole units, so that a column of them can be read."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"
