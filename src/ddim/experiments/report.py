"""Write a report on runs: their results, loss curves, and samples of the same seeds, on one page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddim.errors import UserError, format_count
from ddim.evaluation.figures import plot_logs
from ddim.experiments.configurations import METRICS, Configuration, group_runs, rank_configurations
from ddim.experiments.index import Run, find_runs, mark_comparable, name_runs, training_images
from ddim.files import read_sealed, write_atomic
from ddim.plots import charts
from ddim.plots.pictures import SHEET, arrange_images, enlarge, render_png, split_sheet
from ddim.plots.table import Table, Tabular, render_template
from ddim.runs.folder import REAL_IMAGES, list_numbered_folders, list_sheets
from ddim.runs.log import read_metrics

MARK = "made by ddim"
"""A text in all reports; only files that contain it are replaced."""
FIELDS = 3
"""The largest number of fields of recipes that the table of results shows."""
CELLS = 8
"""The largest number of images in a strip."""
Pictures = Iterator[tuple[str, bytes]]
"""The names of pictures, and the content of their PNG files."""


@dataclass(frozen=True, repr=False)
class Report(Tabular):
    """A report on runs, and the file of its page; see `report`."""

    folder: Path
    runs: Sequence[Run]
    names: Mapping[Path, str]
    rows: Sequence[Configuration]

    @property
    def verdict(self) -> str:
        """Which runs are best; a sentence for a reader without statistics."""
        for metric, praise in (("kid", "closest to real images"), ("image_mae", "lowest validation error")):
            if ranked := rank_configurations(self.rows, metric)[:2]:
                said = [f"{row.name}, {METRICS[metric].title} {row.scores[metric]}" for row in ranked]
                return f"{praise}: {'; next: '.join(said)}"
        if len({training_images(run) for run in self.runs if run.recipe}) > 1:
            return "not ranked: these runs have different images"
        return f"{self.states}; nothing to rank yet"

    @property
    def states(self) -> str:
        """The number of runs in each state."""
        states = Counter(run.state for run in self.runs)
        return f"{format_count(len(self.runs), 'run')}: {', '.join(f'{n} {s}' for s, n in states.items())}"

    @property
    def title(self) -> str:
        return str(self.folder)

    @property
    def notes(self) -> list[str]:
        """Say what the numbers mean, and under which conditions they were measured."""
        meaning = "± is the standard deviation over seeds, [ ] the 95 % interval of a single run"
        shown = [run.evaluations[-1] for run in self.runs if run.evaluations and run.comparable]
        conditions = [f"KID and other metrics: {each.conditions}; {each.name}" for each in shown]
        return [meaning, *dict.fromkeys(conditions)]

    def to_records(self) -> list[dict[str, Any]]:
        """Return one row for each configuration: its runs, its fields, the means of its metrics."""
        means = [{name: score.value for name, score in row.scores.items()} for row in self.rows]
        return [{"run": row.name, **row.choice, **each} for row, each in zip(self.rows, means, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """Return the file of the page, and the table."""
        return {"files": [self.folder], **super().to_json()}

    def _shown(self, notes: Sequence[str]) -> Table:
        """Return the table with spreads and intervals, and with the best value of each metric marked."""
        fields = list(self.rows[0].choice)[:FIELDS] if self.rows else []
        metrics = [name for name in METRICS if any(name in row.scores for row in self.rows)]
        lines, best = [], set()
        for row in self.rows:
            scores = [str(row.scores.get(name, "–")) for name in metrics]
            finished = f"{len(row.finished)} of {len(row.runs)}"
            lines.append([row.name, *(row.choice[name] for name in fields), *scores, finished])
        for column, name in enumerate(metrics, 1 + len(fields)):
            best |= {(self.rows.index(row), column) for row in rank_configurations(self.rows, name)[:1]}
        arrows = ["↓" if METRICS[name].lower_is_better else "↑" for name in metrics]
        titles = [f"{METRICS[name].title} {arrow}" for name, arrow in zip(metrics, arrows, strict=True)]
        return Table(["run", *fields, *titles, "finished"], lines, notes, words=1 + len(fields), best=best)


def report(*folders: str | Path, out: str | Path | None = None) -> Report:
    """Write a report on runs: one page with tables, curves and samples.

    The page is one HTML file that contains its images. Means and standard deviations are over runs that
    differ only in their seed. The page shows samples of the same seeds below real images, one sample over the
    course of training, and the newest results of `ddim memorisation`, `likelihood` and `diagnose`.

    Args:
        folders: sweeps, runs, or folders that hold them (default: runs).
        out: the .html file, by default report.html in the folder, or in this folder if several are given.

    Raises:
        UserError: if there is no run, or `out` is a file of another program.

    Example:
        >>> ddim.report("runs/photos-fast-sweep-1")

    Commands:
        ddim report runs/photos-fast-sweep-1
        ddim report runs/photos-fast-1 runs/photos-keras-1 --out comparison.html
    """
    places = [Path(folder) for folder in folders or ("runs",)]
    one = places[0] if len(places) == 1 else None
    runs = mark_comparable(
        list({run.path.resolve(): run for each in places for run in find_runs(each)}.values())
    )
    if not runs:
        raise UserError(f"there is no run in {' or '.join(map(str, places))}")
    file = Path(out) if out else (one or Path()) / "report.html"
    if file.exists() and MARK not in file.read_text(encoding="utf-8", errors="replace")[:400]:
        raise UserError(f"{str(file)!r} exists and was not made by ddim: give another name")
    names = name_runs(runs)
    written = Report(file, runs, names, group_runs(runs, names))
    page = render_template(
        "report.html",
        title=one.resolve().name if one else "Runs",
        mark=MARK,
        report=written,
        results=written._shown(written.notes),
        choices=Table.from_records([{"run": row.name, **row.choice} for row in written.rows]),
        fields=FIELDS,
        losses=_plot_losses(written.rows),
        samples=list(_list_samples(runs, names)),
        growth=list(_list_growth(runs, names)),
        runs=_list_runs(runs, names),
        figures=list(_list_figures(runs, names)),
    )
    write_atomic(file, page.encode())
    return written


def _plot_losses(rows: Sequence[Configuration]) -> bytes | None:
    """Return a figure of the losses of the configurations, of the best ones if there are too many."""
    ranked = rank_configurations(rows, "image_mae")
    firsts, repeats = {}, {}
    for row in [*ranked, *(row for row in rows if row not in ranked)][: len(charts.COLOURS)]:
        logs = [read_metrics(run.path) for run in row.runs]
        if logged := [log for log in logs if any("loss" in line for line in log)]:
            firsts[row.name], *repeats[row.name] = logged
    return render_png(charts.rasterise(plot_logs(firsts, repeats))) if firsts else None


def _list_samples(runs: Sequence[Run], names: Mapping[Path, str]) -> Pictures:
    """Yield the last samples of each run as a strip, below real images of its data set."""
    strips: dict[bytes, list[tuple[str, bytes]]] = {}
    for run in runs:
        if run.recipe and (sheets := list_sheets(run.path)):
            file = run.path / REAL_IMAGES
            real = _join(_read_cells(file, run)) if file.exists() else b""
            strips.setdefault(real, []).append((names[run.path], _join(_read_cells(sheets[-1][1], run))))
    for real, samples in strips.items():
        yield from [("real images", real)] if real else []
        yield from samples


def _list_growth(runs: Sequence[Run], names: Mapping[Path, str]) -> Pictures:
    """Yield the sample of the first seed at several training steps of each run as a strip."""
    for run in runs:
        sheets = list_sheets(run.path)
        if run.recipe and len(sheets) > 1:
            chosen = np.unique(np.linspace(0, len(sheets) - 1, CELLS).round().astype(int))
            seen = ", ".join(f"{sheets[k][0] * run.recipe['optim']['batch']:,}" for k in chosen)
            cells = [_read_cells(sheets[k][1], run)[0] for k in chosen]
            yield f"{names[run.path]}: {seen} images", _join(cells)


def _read_cells(path: Path, run: Run) -> list[np.ndarray]:
    """Return the first images (h, w, 3) uint8 of a sheet of the run."""
    with Image.open(path) as image:
        cells = split_sheet(np.asarray(image.convert("RGB")), *run.recipe["data"]["size"])
    return cells[: min(CELLS, run.recipe["report"]["grid"])]


def _join(cells: Sequence[np.ndarray]) -> bytes:
    """Return images (h, w, 3) uint8 in one row, enlarged, as the content of a PNG file."""
    # The factor depends only on the width of an image, so images look equally large in all strips of a page.
    row = arrange_images(np.stack(cells), len(cells))
    return render_png(enlarge(row, max(1, SHEET // (CELLS * cells[0].shape[1]))))


def _list_runs(runs: Sequence[Run], names: Mapping[Path, str]) -> Table:
    """Return the table of runs: progress, and the newest tests for copies and likelihoods."""
    rows = []
    for run in runs:
        row = {"run": names[run.path], "state": run.state, "seed": run.recipe.get("seed")}
        row["images seen"] = f"{run.images:,}" + (f" of {run.total:,}" if run.total else "")
        if file := _find_newest(run, "memorisation", "record.json"):
            copies = read_sealed(file)
            row |= {"copies": f"{100 * copies['copies']['value']:.1f} %", "memorisation": copies["verdict"]}
        if file := _find_newest(run, "likelihoods", "record.json"):
            likelihood = read_sealed(file)
            bits, images = likelihood["bits"], len(likelihood["reference"]["images"])
            error = "" if bits["error"] is None else f" ± {bits['error']:.3f}"
            where = f"({likelihood['method']}, {images} images)"
            row["bits per dimension ↓"] = f"{bits['value']:.3f}{error} {where}"
        rows.append({**row, "note": run.why} if run.why else row)
    return Table.from_records(rows)


def _list_figures(runs: Sequence[Run], names: Mapping[Path, str]) -> Pictures:
    """Yield the figures of the newest memorisation test and diagnosis of each run."""
    for run in runs:
        if file := _find_newest(run, "memorisation", "pairs.png"):
            yield f"{names[run.path]}: samples and their nearest training images", file.read_bytes()
        if file := _find_newest(run, "diagnostics", "figure.png"):
            yield f"{names[run.path]}: errors at each noise level", file.read_bytes()


def _find_newest(run: Run, kind: str, name: str) -> Path | None:
    """Return a file in the newest folder of a kind of measurement; None if there is none."""
    files = [folder / name for folder in list_numbered_folders(run.path / kind)]
    return files[-1] if files and files[-1].exists() else None
