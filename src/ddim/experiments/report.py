"""Write a report on runs: their results, loss curves, and samples of the same seeds, on one page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddim.errors import UserError, format_count, warn_user
from ddim.evaluation.figures import plot_logs
from ddim.experiments.configurations import METRICS, Configuration, group_runs, name_runs, rank_configurations
from ddim.experiments.evaluations import mark_comparable, training_images
from ddim.experiments.index import Run, find_runs
from ddim.files import read_sealed, write_atomic
from ddim.plots import charts
from ddim.plots.pictures import SHEET, arrange_images, enlarge, render_png, split_sheet
from ddim.plots.table import Table, Tabular, render_template
from ddim.runs.folder import REAL_IMAGES, list_numbered_folders, list_sheets
from ddim.runs.log import read_metrics

MARK = "made by ddim"
"""A text in all reports; only files that contain it are replaced."""
CURVES = len(charts.COLOURS)
"""The largest number of configurations in a figure: one for each distinguishable colour."""
FIELDS = 3
"""The largest number of fields of recipes that the table of results shows."""
CELLS = 8
"""The largest number of images in a strip."""


@dataclass(frozen=True, repr=False)
class Report(Tabular):
    """A report on runs, and the file of its page; see `report`."""

    folder: Path
    runs: Sequence[Run]
    rows: Sequence[Configuration]
    names: Mapping[Path, str]

    @property
    def verdict(self) -> str:
        """Which runs are best; a sentence for a reader without statistics."""
        for metric, praise in (("kid", "closest to real images"), ("image_mae", "lowest validation error")):
            if ranked := rank_configurations(self.rows, metric)[:2]:
                said = [f"{row.name}, {METRICS[metric].title} {row.score(metric)}" for row in ranked]
                return f"{praise}: {'; next: '.join(said)}"
        if len({training_images(run) for run in self.runs if run.recipe}) > 1:
            return "not ranked: these runs have different images"
        return f"{_count_states(self.runs)}; nothing to rank yet"

    @property
    def title(self) -> str:
        return str(self.folder)

    @property
    def notes(self) -> list[str]:
        """Describe what the numbers mean, under which conditions they were measured, and what is left out."""
        shown = [run.evaluations[-1] for run in self.runs if run.evaluations and run.comparable]
        conditions = dict.fromkeys(f"KID and other metrics: {each.conditions}; {each.name}" for each in shown)
        duplicates = [self.names[run.path] for row in self.rows for run in row.duplicates]
        left_out = f"not counted, as another run has the same recipe and seed: {', '.join(duplicates)}"
        meaning = "± is the standard deviation over seeds, [ ] the 95 % interval of a single run"
        return [meaning, *conditions, *([left_out] if duplicates else [])]

    def to_records(self) -> list[dict[str, Any]]:
        """Return one row for each configuration: its runs, its fields, the means of its metrics."""
        scores = [{name: row.score(name) for name in METRICS} for row in self.rows]
        return [
            {"run": row.name, **row.choice, **{name: score and score.value for name, score in each.items()}}
            for row, each in zip(self.rows, scores, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the file of the page, and the table."""
        return {"files": [self.folder], **super().to_json()}

    def _shown(self, notes: Sequence[str]) -> Table:
        """Return the table with spreads and intervals, and with the best value of each metric marked."""
        fields = list(self.rows[0].choice)[:FIELDS] if self.rows else []
        metrics = [name for name in METRICS if any(row.score(name) for row in self.rows)]
        lines = [
            [
                row.name,
                *(row.choice[name] for name in fields),
                *(str(row.score(name) or "–") for name in metrics),
                f"{len(row.finished)} of {len(row.runs)}",
            ]
            for row in self.rows
        ]
        words = 1 + len(fields)
        best = {
            (self.rows.index(ranked[0]), words + column)
            for column, name in enumerate(metrics)
            if (ranked := rank_configurations(self.rows, name))
        }
        arrows = {True: "↓", False: "↑"}
        titles = [f"{METRICS[name].title} {arrows[METRICS[name].lower_is_better]}" for name in metrics]
        return Table(["run", *fields, *titles, "finished"], lines, notes, words=words, best=best)


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
    folders = folders or ("runs",)
    runs = list({run.path.resolve(): run for folder in folders for run in find_runs(folder)}.values())
    if not runs:
        raise UserError(f"there is no run in {' or '.join(map(str, folders))}")
    file = Path(out or (Path(folders[0]) if len(folders) == 1 else Path()) / "report.html")
    if file.exists() and MARK not in file.read_text(encoding="utf-8", errors="replace")[:400]:
        raise UserError(f"{str(file)!r} exists and was not made by ddim: give another name")
    runs = mark_comparable(runs)
    found = Report(file, runs, group_runs(runs), name_runs(runs))
    page = render_template(
        "report.html",
        title=Path(folders[0]).resolve().name if len(folders) == 1 else "Runs",
        mark=MARK,
        verdict=found.verdict,
        overview=_count_states(runs),
        results=found._shown(found.notes),
        choices=Table.from_records([{"run": row.name, **row.choice} for row in found.rows]),
        fields=FIELDS,
        losses=_plot_losses(found.rows),
        samples=list(_list_samples(found)),
        growth=list(_list_growth(found)),
        runs=_list_runs(found),
        figures=list(_list_figures(found)),
    )
    write_atomic(file, page.encode())
    return found


def _count_states(runs: Sequence[Run]) -> str:
    states = Counter(run.state for run in runs)
    return f"{format_count(len(runs), 'run')}: {', '.join(f'{n} {state}' for state, n in states.items())}"


def _plot_losses(rows: Sequence[Configuration]) -> bytes | None:
    """Return a figure of the losses of at most `CURVES` configurations, the best ones if they are ranked."""
    ranked = rank_configurations(rows, "image_mae")
    shown = [*ranked, *(row for row in rows if row not in ranked)][:CURVES]
    logs = {row.name: [read_metrics(run.path) for run in row.runs] for row in shown}
    logs = {name: [log for log in each if any("loss" in line for line in log)] for name, each in logs.items()}
    firsts = {name: each[0] for name, each in logs.items() if each}
    repeats = {name: each[1:] for name, each in logs.items() if each}
    return render_png(charts.rasterise(plot_logs(firsts, repeats))) if firsts else None


def _list_samples(found: Report) -> Iterator[tuple[str, bytes]]:
    """Yield the last samples of each run as a strip, below real images of its data set."""
    real: dict[bytes, list[tuple[str, bytes]]] = {}
    for run in found.runs:
        if (sheets := list_sheets(run.path)) and (samples := _read_cells(sheets[-1][1], run)):
            images = _read_cells(run.path / REAL_IMAGES, run)
            strips = real.setdefault(_join(images) if images else b"", [])
            strips.append((found.names[run.path], _join(samples)))
    for images, strips in real.items():
        yield from [("real images", images)] if images else []
        yield from strips


def _list_growth(found: Report) -> Iterator[tuple[str, bytes]]:
    """Yield the sample of the first seed at several training steps of each run as a strip."""
    for run in found.runs:
        sheets = list_sheets(run.path)
        chosen = np.unique(np.linspace(0, len(sheets) - 1, CELLS).round().astype(int)) if sheets else []
        cells = {sheets[k][0]: cells[0] for k in chosen if (cells := _read_cells(sheets[k][1], run))}
        if len(cells) > 1:
            seen = ", ".join(f"{step * run.recipe['optim']['batch']:,}" for step in cells)
            yield f"{found.names[run.path]}: {seen} images", _join(list(cells.values()))


def _read_cells(path: Path, run: Run) -> list[np.ndarray]:
    """Return the first images (h, w, 3) uint8 of a sheet of the run; [] if there is none or it is damaged."""
    if not run.recipe or not path.exists():
        return []
    try:
        with Image.open(path) as image:
            cells = split_sheet(np.asarray(image.convert("RGB")), *run.recipe["data"]["size"])
    except (OSError, SyntaxError, ValueError):  # Pillow raises any of these for damaged files
        warn_user(f"{path} is damaged, and is left out")
        return []
    return cells[: min(CELLS, run.recipe["report"]["grid"])]


def _join(cells: Sequence[np.ndarray]) -> bytes:
    """Return images (h, w, 3) uint8 in one row, enlarged, as the content of a PNG file."""
    # The factor depends only on the width of an image, so images look equally large in all strips of a page.
    row = arrange_images(np.stack(cells), len(cells))
    return render_png(enlarge(row, max(1, SHEET // (CELLS * cells[0].shape[1]))))


def _list_runs(found: Report) -> Table:
    """Return the table of runs: progress, and the newest tests for copies and likelihoods."""
    rows = []
    for run in found.runs:
        progress = f"{run.images:,}" + (f" of {run.total:,}" if run.total else "")
        row = {"run": found.names[run.path], "state": run.state, "seed": run.recipe.get("seed")}
        row["images seen"] = progress
        if copies := _read_newest(run, "memorisation"):
            row |= {"copies": f"{100 * copies['copies']['value']:.1f} %", "memorisation": copies["verdict"]}
        if record := _read_newest(run, "likelihoods"):
            bits, images = record["bits"], len(record["reference"]["images"])
            spread = f" ± {bits['error']:.3f}" if bits["error"] is not None else ""
            row["bits per dimension ↓"] = f"{bits['value']:.3f}{spread} ({record['method']}, {images} images)"
        rows.append({**row, "note": run.why} if run.why else row)
    return Table.from_records(rows)


def _read_newest(run: Run, kind: str) -> dict[str, Any]:
    """Return the record of the newest measurement of a kind; {} if there is none or it is damaged."""
    files = [folder / "record.json" for folder in list_numbered_folders(run.path / kind)]
    try:
        return read_sealed(files[-1]) if files and files[-1].exists() else {}
    except UserError as error:
        warn_user(f"{error}; it is left out")
        return {}


def _list_figures(found: Report) -> Iterator[tuple[str, bytes]]:
    """Yield the figures of the newest memorisation test and diagnosis of each run."""
    for run in found.runs:
        for kind, name, about in (
            ("memorisation", "pairs.png", "samples and their nearest training images"),
            ("diagnostics", "figure.png", "errors at each noise level"),
        ):
            files = [folder / name for folder in list_numbered_folders(run.path / kind)]
            if files and files[-1].exists():
                yield f"{found.names[run.path]}: {about}", files[-1].read_bytes()
