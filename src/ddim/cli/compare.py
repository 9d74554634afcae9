"""`ddim compare`: evaluations side by side, ranked where they may be."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.cli.tables import print_table
from ddim.errors import UserError

if TYPE_CHECKING:
    from ddim.evaluation.compare import Row
    from ddim.evaluation.record import Evaluation
    from ddim.plots.page import Block

_EPILOG = """
Compares evaluations with the first one. RECORD|RUN is a record, the folder of an evaluation, or a run, which
stands for its newest evaluation. An evaluation is ranked if it has the features and the reference of the
first and, except for KID and FID-infinity, its number of images. The others are listed with the reason.

Differences from the first have 95 % intervals. An interval that holds 0 means that the two are not
distinguishable at 95 %. Except for KID the intervals are conservative: they hold the true difference in at
least 95 % of cases, and may be twice as wide as needed. Differences are paired if both evaluations sampled
the same seeds. FID-infinity has no differences.

--out writes the comparison, with notes and sheets of samples, as one HTML file and as Markdown with its
images in NAME-files/.

examples:
  ddim compare runs/photos-fast-1 runs/photos-fast-2
  ddim compare runs/photos-fast-1/evaluations/* --metric coverage --out comparison.html
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim compare`."""
    from ddim.metrics.catalogue import METRICS

    parser.usage = "ddim compare RECORD|RUN RECORD|RUN... [--metric kid] [--out FILE.html]"
    parser.epilog = _EPILOG
    parser.add_argument(
        "evaluations",
        type=Path,
        nargs="+",
        metavar="RECORD|RUN",
        help="the first is compared with the others",
    )
    parser.add_argument(
        "--metric", default="kid", metavar="NAME", help=f"{', '.join(METRICS)} (default: kid)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write FILE.html and FILE.md as well")


def run(args: argparse.Namespace) -> int:
    """Rank, print the table and what differs, write the page."""
    # Here, so that --help answers without torch.
    from ddim.evaluation.compare import differing, ranked
    from ddim.evaluation.record import read
    from ddim.metrics.catalogue import find_metric
    from ddim.plots.page import check_page_path, save_page
    from ddim.runs.run_path import names_best

    metric = find_metric(args.metric)
    if args.out is not None:
        check_page_path(args.out)
    for path in args.evaluations:
        if names_best(path):
            raise UserError(f"{path} has no evaluations of its own: name one, {path.parent}/evaluations/N")
    evaluations = [read(path) for path in args.evaluations]
    rows = ranked(evaluations, args.metric)
    better = "lower" if metric.lower_is_better else "higher"
    title = f"{metric.title}, {better} is better"
    differences = differing([row.evaluation for row in rows])
    folders = [str(row.evaluation.folder) for row in rows]
    table, apart = _table(rows, args.metric, evaluations[0], folders), _apart(differences, folders)
    sys.stdout.write(f"{title}\n")
    print_table(table[0], table[1:])
    if apart:
        sys.stdout.write("\n")
        print_table(apart[0], apart[1:])
    if args.out is not None:
        names = [_short(row.evaluation.folder) for row in rows]
        table, apart = _table(rows, args.metric, evaluations[0], names), _apart(differences, names)
        for path in save_page(args.out, title, *_page(table, apart, rows, evaluations[0])):
            sys.stdout.write(f"{path}\n")
    return 0


def _page(
    table: list[list[str]], apart: list[list[str]], rows: list[Row], first: Evaluation
) -> tuple[list[Block], dict[str, bytes]]:
    """The blocks of the page of two tables, and the grids of the evaluations as PNG files by name."""
    from ddim.evaluation.record import GRID
    from ddim.plots.page import Cell, Heading, Picture, Table, Text

    features, reference = first.record["features"], first.record["reference"]
    how = (
        f"By features of {features['extractor']} (weights {features['weights'][:8]}, {features['resize']}), "
        f"against {reference['images']:,} images, {reference['part']} of {Path(reference['source']).name}. "
        "Differences have 95 % intervals, which are conservative except for KID. If an interval holds "
        "0, the two are not distinguishable at 95 %."
    )
    names = [line[1] for line in table[1:]]
    notes: list[str] = []
    images: dict[str, bytes] = {}
    pictures: list[Block] = []
    for number, (name, row) in enumerate(zip(names, rows, strict=True), 1):
        notes += [f"{name}: {note}" for note in row.evaluation.record.get("notes", [])]
        grid = row.evaluation.folder / GRID
        if grid.is_file():
            images[f"{number:03}.png"] = grid.read_bytes()
            pictures.append(Picture(f"{number:03}.png", name))

    def cells(lines: list[list[str]]) -> list[list[Cell]]:
        return [[Cell(text) for text in line] for line in lines[1:]]

    blocks: list[Block] = [Text(how), Table(["place", *table[0][1:]], cells(table), 2, notes)]
    if apart:
        blocks += [Heading("What differs"), Table(apart[0], cells(apart), len(apart[0]))]
    blocks += [Heading("Pictures"), *pictures] if pictures else []
    return blocks, images


def _short(folder: Path) -> str:
    """What others call an evaluation, who need not know where on this machine it lies: RUN/evaluations/1."""
    from ddim.evaluation.record import FOLDER

    parts = folder.resolve().parts
    return "/".join(parts[-3:] if parts[-2:-1] == (FOLDER,) else parts[-1:])


def _apart(differences: dict[str, list[Any]], names: list[str]) -> list[list[str]]:
    """What differs, a line each, under the names of the evaluations; nothing where nothing does."""
    lines = [[name, *_cells(values)] for name, values in differences.items()]
    return [["", *names], *lines] if lines else []


def _table(rows: list[Row], metric: str, first: Evaluation, names: list[str]) -> list[list[str]]:
    """A line for each evaluation, under one of heads."""
    table = [["", "evaluation", "pictures", "value", "95 % interval", "less the first"]]
    for place, (row, name) in enumerate(zip(rows, names, strict=True), 1):
        evaluation, value = row.evaluation, row.evaluation.value(metric)
        interval = evaluation.interval(metric)
        table.append(
            [
                "-" if row.unranked else str(place),
                name,
                f"{evaluation.record['generated']['images']:,}",
                "none" if value is None else f"{value:.5f}",
                "" if interval is None else f"{interval[0]:.5f} ... {interval[1]:.5f}",
                "the first" if evaluation is first else _reason(row),
            ]
        )
    return table


def _reason(row: Row) -> str:
    """A difference, or the reason why there is none, or why a row is not ranked."""
    what = row.difference
    if what is None or isinstance(what, str):
        return what or f"not ranked: {row.unranked}"
    kind = "paired" if what.paired else "not paired"
    verdict = ", not distinguishable at 95 %" if what.low <= 0 <= what.high else ""
    return f"{what.value:+.5f} ({what.low:+.5f} ... {what.high:+.5f}), {kind}{verdict}"


def _cells(values: list[Any]) -> list[str]:
    """Values that differ, each cut short where they still differ then."""
    whole = [_said(value) for value in values]
    short = [text if len(text) <= 32 else f"{text[:29]}..." for text in whole]
    return short if len(set(short)) == len(set(whole)) else whole


def _said(value: Any) -> str:  # noqa: ANN401  (JSON)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else str(value)
