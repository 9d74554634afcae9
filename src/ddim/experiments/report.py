"""Write a report on runs: their results, loss curves, and samples of the same seeds, on one page."""

import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from PIL import Image

from ddim.errors import UserError, format_count
from ddim.evaluation.figures import plot_logs
from ddim.evaluation.likelihood import format_bits
from ddim.evaluation.record import format_estimate, list_results, name_guide
from ddim.experiments.index import Run, find_runs, mark_comparable, name_runs, training_images
from ddim.files import read_sealed, write_atomic
from ddim.metrics.catalogue import METRICS as EVALUATED, Metric
from ddim.metrics.estimate import Estimate
from ddim.metrics.statistics import estimate_difference
from ddim.plots import charts
from ddim.plots.pictures import SHEET, arrange_images, enlarge, render_png, split_sheet
from ddim.plots.table import Table, Tabular, render_template
from ddim.recipe.options import ERRORS, flatten_as_text, list_varied
from ddim.runs.folder import REAL_IMAGES, list_sheets
from ddim.runs.log import read_metrics

MARK = "made by ddim"
"""A text in all reports; only files that contain it are replaced."""
FIELDS = 3
"""The largest number of fields of recipes that the table of results shows."""
CELLS = 8
"""The largest number of images in a strip."""
Pictures = Iterator[tuple[str, bytes]]
"""The names of pictures, and the content of their PNG files."""
METRICS = {
    "image_mae": Metric("image MAE", "error of predicted images", lower_is_better=True),
    "noise_mae": Metric("noise MAE", "error of predicted noise", lower_is_better=True),
    **EVALUATED,
}
"""The metrics of a report: the errors in the logs, and those of evaluations."""


# Configurations: runs that differ only in their seed


@dataclass(frozen=True)
class Configuration:
    """Runs that differ only in their seed.

    Attributes:
        name: the name of its first run, and the number of seeds.
        choice: the fields, with their values, in which this configuration differs from the others.
        runs: one run for each seed, a finished one if possible.
    """

    name: str
    choice: Mapping[str, str]
    runs: Sequence[Run]

    @property
    def counted(self) -> Sequence[Run]:
        """The runs whose mean is taken: the finished runs, or all if none is finished."""
        return self.finished or self.runs

    @property
    def finished(self) -> Sequence[Run]:
        """The finished runs."""
        return [run for run in self.runs if run.state == "finished"]

    @cached_property
    def scores(self) -> dict[str, Estimate]:
        """The mean of each measured metric over the finished runs, or over all if none is finished.

        The ends are those of its 95 % interval over the seeds; for a single run, those of the interval of its
        evaluation, without the noise of training. Only evaluations that `mark_comparable` marked as
        comparable count.
        """
        values = defaultdict[str, list[Estimate]](list)
        for run in self.counted:
            for name, error in run.errors.items():
                values[name].append(Estimate(error, None, None))
            for evaluation in run.evaluations if run.comparable else ():
                for name, measured in evaluation.metrics.items():
                    values[name].append(measured)
        return {name: _average(values[name]) for name in METRICS if name in values}

    def describe(self, metric: str) -> str:
        """Return the mean of a metric as text, with half of its 95 % interval; – if not measured."""
        return format_estimate(self.scores[metric]) if metric in self.scores else "–"


def _average(estimates: Sequence[Estimate]) -> Estimate:
    if len(estimates) == 1:
        return estimates[0]
    values = [each.value for each in estimates]
    return Estimate.from_error(fmean(values), stdev(values) / math.sqrt(len(values)), len(values) - 1)


def group_runs(runs: Sequence[Run], names: Mapping[Path, str]) -> list[Configuration]:
    """Return the configurations of the runs that have begun, those with finished runs first.

    If two runs have the same recipe and seed, one of them counts, a finished one if possible.
    """
    begun = [run for run in runs if run.recipe and run.state != "waiting"]
    begun.sort(key=lambda run: run.state != "finished")
    recipes = [_describe_recipe(run) for run in begun]
    varied = list_varied(recipes)
    groups = defaultdict[tuple[str, ...], dict[int, Run]](dict)
    for run, recipe in zip(begun, recipes, strict=True):
        # A path may have got other images.
        group = groups[training_images(run), *(recipe.get(name, "–") for name in varied)]
        group.setdefault(run.recipe.get("seed", 0), run)
    rows = []
    for (_, *choice), group in groups.items():
        members = list(group.values())
        seeds = f" ({len(members)} seeds)" if len(members) > 1 else ""
        name = f"{names[members[0].path]}{seeds}"
        rows.append(Configuration(name, dict(zip(varied, choice, strict=True)), members))
    return rows


def _describe_recipe(run: Run) -> dict[str, str]:
    """Return the fields of a recipe that may change results, and where the weights and images come from."""
    fields = flatten_as_text(run.recipe)
    for name in ("seed", "net.classes"):
        fields.pop(name, None)
    if run.facts.get("extended"):
        fields["images"] = str(run.total)
    # Folders are left out, because other people may see the names.
    if source := run.facts.get("source"):
        fields["from"] = f"{name_guide(source)} ({run.facts.get('source_sha256', '')[:8]})"
    fields["data.source"] = Path(fields["data.source"]).name
    return fields


def rank_configurations(rows: Sequence[Configuration], metric: str) -> list[Configuration]:
    """Return the configurations with finished runs, the best first; [] if they cannot be ranked.

    They cannot if their images or the units of their errors differ, if too few images were compared for this
    metric, or if the two best are equal.
    """
    runs = [run for row in rows for run in row.runs]
    fair = len({training_images(run) for run in runs}) == 1
    if metric in ERRORS:
        fair = fair and len({_describe_unit(run.recipe) for run in runs}) == 1
    else:
        evaluations = [each for run in runs if run.comparable for each in run.evaluations]
        fair = fair and not any(each.shortage(metric) for each in evaluations)
    measured = [row for row in rows if row.finished and metric in row.scores]
    worse = not METRICS[metric].lower_is_better
    ranked = sorted(measured, key=lambda row: row.scores[metric].value, reverse=worse)
    tied = len(ranked) < 2 or ranked[0].scores[metric].value == ranked[1].scores[metric].value
    return ranked if fair and not tied else []


def describe_doubt(ranked: Sequence[Configuration], metric: str) -> str:
    """Return how many configurations may be as good as the first, as the end of a sentence; "" if none."""
    best, *others = ranked
    if len(best.counted) == 1:
        return "; with one seed of it, this may be chance"

    def is_worse(other: Configuration) -> bool:
        # Of a configuration with one seed, the noise of training is not known.
        if len(other.counted) == 1:
            return False
        difference = estimate_difference(best.scores[metric], other.scores[metric])
        return difference.distinguishable_among(len(others))

    close = len([other for other in others if not is_worse(other)])
    return f"; {close} of {len(others)} others may be as good" if close else ""


def _describe_unit(recipe: Mapping[str, Any]) -> str:
    """Return what decides about the unit of an error: noise levels, scaling of pixels, validation images."""
    return str([recipe["schedule"], recipe["pixels"], recipe["report"]["validation_images"]])


# The report


@dataclass(frozen=True, repr=False)
class Report(Tabular):
    """A report on runs, and the file of its page; see `report`."""

    folder: Path
    runs: Sequence[Run]
    rows: Sequence[Configuration]

    @property
    def verdict(self) -> str:
        """Which runs are best; a sentence for a reader without statistics."""
        groups = defaultdict[str, list[Configuration]](list)
        for row in self.rows:
            groups[training_images(row.runs[0])].append(row)
        most = max(groups.values(), key=len, default=[])
        share = f" of the {len(most)} that share their images" if len(groups) > 1 else ""
        for metric, praise in (("kid", "closest to real images"), ("image_mae", "lowest validation error")):
            if ranked := rank_configurations(most, metric):
                best = f"{ranked[0].name}, {METRICS[metric].title} {ranked[0].describe(metric)}"
                return f"{praise}{share}: {best}{describe_doubt(ranked, metric)}"
        if share:
            return "not ranked: these runs have different images"
        finished = sum(run.state == "finished" for run in self.runs)
        return f"{finished} of {format_count(len(self.runs), 'run')} finished; nothing to rank yet"

    @property
    def title(self) -> str:
        return str(self.folder)

    @property
    def notes(self) -> list[str]:
        """Say what the numbers mean, and under which conditions they were measured."""
        meaning = "± is half of a 95 % interval: over seeds, or of the evaluation of a single run"
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
        """Return the table with spreads and intervals."""
        measured = [name for name in METRICS if any(name in row.scores for row in self.rows)]
        lines, fields = [], []
        for row in self.rows:
            fields = list(row.choice)[:FIELDS]
            line = {"run": row.name, **{name: row.choice[name] for name in fields}}
            for name in measured:
                arrow = "↓" if METRICS[name].lower_is_better else "↑"
                line[f"{METRICS[name].title} {arrow}"] = row.describe(name)
            several = f"{len(row.finished)} of {len(row.runs)} finished"
            line["state"] = several if len(row.runs) > 1 else row.runs[0].state
            lines.append(line)
        return replace(Table.from_records(lines, notes), words=1 + len(fields))


def report(*folders: str | Path, out: str | Path | None = None) -> Report:
    """Write a report on runs: one page with tables, curves and samples.

    The page is one HTML file that contains its images. Means and their 95 % intervals are over runs that
    differ only in their seed. The page shows samples of the same seeds below real images, and the newest
    results of `ddim memorisation`, `likelihood` and `diagnose`.

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
    found = {run.path.resolve(): run for each in places for run in find_runs(each)}
    if not found:
        raise UserError(f"there is no run in {' or '.join(map(str, places))}")
    one = len(places) == 1
    file = Path(out) if out else (places[0] if one else Path()) / "report.html"
    if file.exists() and MARK not in file.read_text(encoding="utf-8", errors="replace")[:400]:
        raise UserError(f"{str(file)!r} exists and was not made by ddim: give another name")
    runs = mark_comparable(list(found.values()))
    names = name_runs(runs, os.path.commonpath([run.path.absolute().parent for run in runs]))
    written = Report(file, runs, group_runs(runs, names))
    page = render_template(
        "report.html",
        title=places[0].resolve().name if one else "Runs",
        mark=MARK,
        report=written,
        results=written._shown(written.notes),
        choices=Table.from_records([{"run": row.name, **row.choice} for row in written.rows]),
        fields=FIELDS,
        losses=_plot_losses(written.rows),
        samples=list(_list_samples(runs, names)),
        runs=_list_runs(runs, names),
        figures=list(_list_figures(runs, names)),
    )
    write_atomic(file, page.encode())
    return written


def _plot_losses(rows: Sequence[Configuration]) -> bytes | None:
    """Return a figure of the losses of the configurations, of the first ones if there are too many."""
    firsts, repeats = {}, {}
    for row in rows[: len(charts.COLOURS)]:
        logs = [read_metrics(run.path) for run in row.runs]
        if logged := [log for log in logs if any("loss" in line for line in log)]:
            firsts[row.name], *repeats[row.name] = logged
    return render_png(charts.rasterise(plot_logs(firsts, repeats))) if firsts else None


def _list_samples(runs: Sequence[Run], names: Mapping[Path, str]) -> Pictures:
    """Yield the last samples of each run as a strip, below real images of its data set."""
    strips = defaultdict[bytes, list[tuple[str, bytes]]](list)
    for run in runs:
        sheets, real = list_sheets(run.path), run.path / REAL_IMAGES
        if run.recipe and sheets:
            above = _draw_strip(real, run) if real.exists() else b""
            strips[above].append((names[run.path], _draw_strip(sheets[-1][1], run)))
    for above, samples in strips.items():
        if above:
            yield "real images", above
        yield from samples


def _draw_strip(path: Path, run: Run) -> bytes:
    """Return the first images of a sheet of a run in one row, enlarged, as the content of a PNG file."""
    height, width = run.recipe["data"]["size"]
    with Image.open(path) as image:
        cells = split_sheet(np.asarray(image.convert("RGB")), height, width)
    count = min(CELLS, run.recipe["report"]["grid"])
    row = arrange_images(np.stack(cells[:count]), count)
    # The factor depends only on the width of an image, so images look equally large in all strips of a page.
    return render_png(enlarge(row, max(1, SHEET // (CELLS * width))))


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
            row["bits per dimension ↓"] = f"{format_bits(likelihood['bits'], 3)} ({likelihood['method']})"
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
    """Return the file of this name in the newest result of a kind of measurement; None if there is none."""
    files = [folder / name for folder in list_results(run.path, kind)[-1:]]
    return next(filter(Path.exists, files), None)
