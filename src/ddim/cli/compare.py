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
Each is a record, the folder of an evaluation, or a run, of which the newest evaluation counts. Ranked is what
has the features, the reference and, but for KID and FID-infinity, the number of pictures of the first; the
rest is listed with the reason. Differences are to the first, with their 95 % intervals: one that holds 0 is
no difference. But for KID they are cautious: they hold the truth at least 95 times in 100, and may be about
twice as wide as need be. They are paired where both made pictures of the same seeds. FID-infinity is
ranked without.

--out writes the same with notes and grids as one HTML file with everything inside, and a Markdown file of the
same name with its pictures in NAME-files/.

examples:
  ddim compare runs/photos-fast-1 runs/photos-fast-2
  ddim compare runs/photos-fast-1/evaluations/* --metric coverage --out comparison.html
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim compare`."""
    parser.usage = "ddim compare RECORD|RUN RECORD|RUN... [--metric kid] [--out FILE.html]"
    parser.epilog = _EPILOG
    parser.add_argument(
        "evaluations", type=Path, nargs="+", metavar="RECORD|RUN", help="the first is compared with the rest"
    )
    parser.add_argument(
        "--metric",
        default="kid",
        help="kid (default), fid, fid_infinity, precision, recall, density, coverage",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="a page of it, FILE.html, and Markdown")


def run(args: argparse.Namespace) -> int:
    """Rank, print the table and what differs, write the page."""
    # Here, so that --help answers without torch.
    from ddim.evaluation.compare import differing, ranked
    from ddim.evaluation.record import read
    from ddim.metrics.catalogue import find_metric
    from ddim.plots.page import check_page_path, save_page
    from ddim.runs.checkpoint import names_best

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
        "Differences have 95 % intervals, but for KID cautious ones of at least that: one that holds 0 is no "
        "difference."
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
    verdict = ", no difference" if what.low <= 0 <= what.high else ""
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
