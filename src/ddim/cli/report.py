"""`ddim report`: what came of runs, on one page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ddim.errors import UserError

_EPILOG = """
The report has a table of configurations, only in the fields in which they differ, with means and spreads over
repeats and what `ddim evaluate` measured; loss curves; pictures of the same seeds for each run. It is one
HTML file with everything inside, and a Markdown file of the same name with its pictures in NAME-files/.

examples:
  ddim report runs/photos-fast-sweep-1
  ddim report runs/photos-fast-1 runs/photos-keras-1 --out comparison.html
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim report`."""
    parser.usage = "ddim report SWEEP|RUN... [--out FILE.html]"
    parser.epilog = _EPILOG
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="SWEEP|RUN", help="sweeps, runs, or folders that hold them"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="default: report.html in SWEEP or RUN, or here for several"
    )


def run(args: argparse.Namespace) -> int:
    """Write the report and print where it lies."""
    from ddim.experiments.index import find
    from ddim.experiments.report import write

    found = {run.path.resolve(): run for folder in args.folders for run in find(folder)}
    one = args.folders[0] if len(args.folders) == 1 else None
    out = args.out or (one or Path()) / "report.html"
    if not found:
        raise UserError(f"{' and '.join(map(str, args.folders))} hold no run")
    title = one.resolve().name if one else "Runs"
    for path in write(list(found.values()), out, title):
        sys.stdout.write(f"{path}\n")
    return 0
