"""`ddim report`: summarise runs on one page."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli.output import print_result

_EPILOG = """
The report has a table of metrics with one row for each configuration, with means and standard deviations
over repeats; the 95 % confidence intervals of the metrics; loss curves; samples of the same seeds for each
run, beside real images; one sample over the course of training; and the results of `ddim memorisation`,
`likelihood` and `diagnose`. It is one HTML file with everything inside.

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
        "--out",
        type=Path,
        metavar="FILE",
        help="the .html file (default: report.html in SWEEP or RUN, or in this folder if several are given)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the report and print its path."""
    from ddim.experiments.report import report

    written = report(*args.folders, out=args.out)
    print_result(args, written.to_json(), str(written), written.folder)
    return 0
