"""`ddim runs`: list runs, and the trials of sweeps, in a table."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ddim.cli.output import print_result, say
from ddim.cli.tables import format_table, format_tabs
from ddim.errors import UserError, escape

if TYPE_CHECKING:
    from ddim.experiments.index import Run

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
    from ddim.experiments.evaluations import mark_comparable
    from ddim.experiments.index import filter_runs, find_runs, run_record, sort_runs

    conditions = {}
    for text in args.where:
        name, equals, wanted = text.partition("=")
        if not equals:
            raise UserError(f"--where must be FIELD=VALUE, got {text!r}")
        conditions[name] = wanted
    folder = args.folder or Path("runs")
    # The default folder may be missing, since a new user has no runs yet. A folder that is given must exist.
    every = [] if args.folder is None and not folder.exists() else find_runs(folder)
    if not every:
        say(f"no runs in {folder} yet: `ddim train photos/` creates the first run")
        if args.json:
            print_result(args, [], "")
        return 0
    found = mark_comparable(filter_runs(every, conditions))
    if args.sort:
        found = sort_runs(found, args.sort)
    head = ("name", "recipe", "data", "size", "images", "state", "left", "image_mae", "kid", "age")
    rows = [_row(each, folder) for each in found]
    text = format_table(head, rows) if sys.stdout.isatty() else format_tabs([head, *rows])
    print_result(args, [run_record(each) for each in found], text)
    judged = [each for each in found if each.comparable and "kid" in each.metrics]
    if judged:
        say(escape(f"kid: {judged[0].evaluations[-1].conditions}"))
    for each in found:
        if each.why:
            say(f"{'' if each.comparable else '* '}{escape(f'{_name(each, folder)}: {each.why}')}")
    return 0


def _row(run: Run, folder: Path) -> tuple[str, ...]:
    error, kid = run.errors.get("image_mae"), run.metrics.get("kid")
    data = run.recipe.get("data", {})
    return (
        _name(run, folder),
        run.recipe.get("name") or "-",
        Path(data["source"]).name if data else "-",
        "x".join(map(str, data["size"])) if data else "-",
        f"{run.images}/{run.total or '-'}",
        run.state,
        "-" if run.seconds_left is None else _duration(run.seconds_left),
        "-" if error is None else f"{error:.4f}",
        "-" if kid is None else f"{kid:.4f}{'' if run.comparable else '*'}",
        _duration(time.time() - run.changed) if run.changed else "-",
    )


def _name(run: Run, folder: Path) -> str:
    path = run.path.relative_to(folder)
    return str(path) if path.parts else run.path.name


def _duration(seconds: float) -> str:
    """Return a duration in whole units: 90 -> "1m", 7300 -> "2h"."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"
