"""`ddim compare`: evaluations side by side, ranked where they may be."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddim.ranking import Row
    from ddim.scores import Evaluation

_EPILOG = """
Each is a record, the folder of an evaluation, or a run, of which the newest evaluation counts. Ranked is what
has the features, the reference and, but for KID and FID-infinity, the number of pictures of the first; the
rest is listed with the reason. Differences are to the first, with their 95 % intervals: one that holds 0 is
no difference. They are paired where both made pictures of the same seeds. FID-infinity, and the legacy KID
that --features inception-torchvision adds, are ranked without.

examples:
  ddim compare runs/photos-fast-1 runs/photos-fast-2
  ddim compare runs/photos-fast-1/evaluations/* --metric coverage
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim compare`."""
    parser.usage = "ddim compare RECORD|RUN RECORD|RUN... [--metric kid]"
    parser.epilog = _EPILOG
    parser.add_argument(
        "evaluations", type=Path, nargs="+", metavar="RECORD|RUN", help="the first is compared with the rest"
    )
    parser.add_argument(
        "--metric",
        default="kid",
        help="kid (default), fid, fid_infinity, precision, recall, density, coverage or legacy_kid",
    )


def run(args: argparse.Namespace) -> int:
    """Rank, print the table and what differs."""
    # Here, so that --help answers without torch.
    from ddim.ranking import differing, ranked
    from ddim.scores import find_metric, read

    metric = find_metric(args.metric)
    evaluations = [read(path) for path in args.evaluations]
    rows = ranked(evaluations, args.metric)
    better = "lower" if metric.lower_is_better else "higher"
    lines = [f"{metric.title}, {better} is better", *_table(rows, args.metric, evaluations[0])]
    among = [row.evaluation for row in rows]
    differences = differing(among)
    if differences:
        header = ["", *(str(evaluation.folder) for evaluation in among)]
        lines += ["", *_aligned([header, *([name, *map(_said, v)] for name, v in differences.items())])]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _table(rows: list[Row], metric: str, first: Evaluation) -> list[str]:
    table = [["", "evaluation", "pictures", "value", "95 % interval", "less the first"]]
    for place, row in enumerate(rows, 1):
        evaluation, value = row.evaluation, row.evaluation.value(metric)
        interval = evaluation.interval(metric)
        table.append(
            [
                "-" if row.unranked else str(place),
                str(evaluation.folder),
                f"{evaluation.record['generated']['images']:,}",
                "none" if value is None else f"{value:.5f}",
                "" if interval is None else f"{interval[0]:.5f} ... {interval[1]:.5f}",
                "the first" if evaluation is first else _reason(row),
            ]
        )
    return _aligned(table)


def _reason(row: Row) -> str:
    """A difference, or the reason why there is none, or why a row is not ranked."""
    what = row.difference
    if what is None or isinstance(what, str):
        return what or f"not ranked: {row.unranked}"
    kind = "paired" if what.paired else "not paired"
    verdict = ", no difference" if what.low <= 0 <= what.high else ""
    return f"{what.value:+.5f} ({what.low:+.5f} ... {what.high:+.5f}), {kind}{verdict}"


def _said(value: Any) -> str:  # noqa: ANN401  (JSON)
    text = (
        "-" if value is None else f"{value:,}" if isinstance(value, int) and value is not True else str(value)
    )
    return text if len(text) <= 32 else f"{text[:29]}..."


def _aligned(table: list[list[str]]) -> list[str]:
    """Rows of equal length with their columns one under another."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
