"""`ddim compare`: rank evaluations that were made under the same conditions."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli.output import print_result
from ddim.cli.tables import format_table

_EPILOG = """
Compares evaluations with the first evaluation. RECORD|RUN is a record, the folder of an evaluation, or a run,
which stands for its newest evaluation. An evaluation is ranked if it has the same features and reference as
the first evaluation. Metrics other than KID and FID-infinity also need the same number of images. Evaluations
that cannot be ranked are listed with the reason.

Differences from the first evaluation have 95 % confidence intervals. An interval that contains 0 means that
the two evaluations are not distinguishable at 95 %. Except for KID the intervals are conservative: they
contain the true difference in at least 95 % of cases, and may be twice as wide as needed. Differences are
paired if both evaluations sampled the same seeds. FID-infinity has no differences.

examples:
  ddim compare runs/photos-fast-1 runs/photos-fast-2
  ddim compare runs/photos-fast-1/evaluations/* --metric coverage
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim compare`."""
    from ddim.metrics.catalogue import METRICS

    parser.usage = "ddim compare RECORD|RUN RECORD|RUN... [--metric kid]"
    parser.epilog = _EPILOG
    parser.add_argument(
        "evaluations",
        type=Path,
        nargs="+",
        metavar="RECORD|RUN",
        help="two or more evaluations or runs; the first is compared with the others",
    )
    parser.add_argument(
        "--metric", default="kid", metavar="NAME", help=f"{', '.join(METRICS)} (default: kid)"
    )


def run(args: argparse.Namespace) -> int:
    """Compare the evaluations and print the tables."""
    # These imports are here, so that --help does not import torch.
    from ddim.evaluation.compare import compare_evaluations, comparison_record
    from ddim.evaluation.comparison_page import HEAD, choice_rows, ranking_rows

    comparison = compare_evaluations(args.evaluations, metric=args.metric)
    folders = [str(row.evaluation.folder) for row in comparison.rows]
    text = f"{comparison.title}\n" + format_table(["", *HEAD[1:]], ranking_rows(comparison, folders))
    text += f"\nnote: {comparison.remark}\n" if comparison.remark else ""
    if choices := choice_rows(comparison):
        text += "\n" + format_table(["", *folders], choices)
    print_result(args, comparison_record(comparison), text)
    return 0
