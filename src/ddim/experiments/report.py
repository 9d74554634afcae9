"""Write a report on runs: their configurations, results, loss curves, and samples of the same seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.errors import UserError, format_count
from ddim.evaluation.conditions import Conditions
from ddim.evaluation.figures import MEASURES, plot_logs
from ddim.experiments.evaluations import common_conditions, is_last_step
from ddim.experiments.index import Run
from ddim.experiments.measurements import (
    METHODS,
    Measurements,
    common_bits_conditions,
    format_run_bits,
    read_measurements,
)
from ddim.experiments.report_tables import (
    data_fingerprints,
    differing_fields_table,
    results_table,
    runs_table,
)
from ddim.experiments.run_pictures import growth, last_samples, real_images
from ddim.experiments.summary import (
    METRICS,
    MISSING,
    Configuration,
    group_runs,
    have_same_images,
    summarise_metrics,
    value_of_run,
)
from ddim.plots import charts
from ddim.plots.page import (
    Block,
    Folded,
    Heading,
    Picture,
    Strips,
    Text,
    check_page_path,
    save_page,
)
from ddim.plots.pictures import render_png
from ddim.plots.table import Table
from ddim.runs.log import read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = len(charts.COLOURS)
"""The largest number of configurations in a figure: one for each distinguishable colour."""


def write_report(found: Sequence[Run], out: str | Path, title: str) -> None:
    """Write a report on runs as an .html file that contains its images.

    Args:
        found: the runs.
        out: the .html file.
        title: the title of the page.

    Raises:
        UserError: if there is no run, or `out` cannot be written (see `ddim.plots.page.check_page_path`).
    """
    if not found:
        raise UserError("there is no run to report on")
    check_page_path(out)
    save_page(out, title, *build_report(found))


def build_report(found: Sequence[Run]) -> tuple[list[Block], dict[str, bytes]]:
    """Return the blocks of a report on runs, and the bytes of its PNG files, keyed by file name."""
    rows = group_runs(found)
    common = common_conditions(found)
    blocks: list[Block] = [Text(_overview(found, rows))]
    images: dict[str, bytes] = {}
    if rows:
        blocks += [Heading("Results"), results_table(rows, common), *differing_fields_table(rows)]
        blocks += _intervals(rows, common, images)
    curves = _loss_curves(rows)
    if curves:
        tails = {row.name: _tails(row, curves[row.name]) for row in rows if row.name in curves}
        images["losses.png"] = render_png(charts.rasterise(plot_logs(curves, tails)))
        blocks += [Heading("Losses"), Picture("losses.png", _loss_caption(rows, curves, tails))]
    blocks += [*_samples(found, images), *_growth(found, images), *_measurements(found, images)]
    return [*blocks, Heading("Runs"), runs_table(found)], images


def _intervals(
    rows: Sequence[Configuration], common: Conditions | None, images: dict[str, bytes]
) -> list[Block]:
    """Return a figure of the metrics with confidence intervals, and add its PNG file to `images`."""
    panels = {}
    for name in METRICS:
        shown = {}
        for row in rows:
            found = [value_of_run(run, name, common) for run in row.counted]
            shown[row.name] = [(value, *interval) for value, interval in filter(None, found) if interval]
        if any(shown.values()) and len(data_fingerprints(rows)) < 2:
            panels[METRICS[name].title] = shown
    if not panels:
        return []
    images["intervals.png"] = render_png(charts.rasterise(_plot_intervals(panels)))
    caption = "Each run with its 95 % confidence interval, which leaves out the variation between seeds."
    return [Picture("intervals.png", caption)]


def _plot_intervals(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]]) -> Figure:
    """Return a figure with intervals in one or more panels.

    An interval is a horizontal line with a dot at its value. Several intervals of one row are drawn just
    below each other.

    Args:
        panels: the rows of each panel, keyed by its title. The rows are keyed by their names, which are the
            same in all panels, and each row holds intervals (value, low, high).
    """
    names = list(next(iter(panels.values())))
    figure = charts.new_figure(2.2 + 2.6 * len(panels), 0.9 + 0.42 * len(names))
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, rows) in zip(every, panels.items(), strict=True):
        for place, name in enumerate(names):
            for k, (value, low, high) in enumerate(rows[name]):
                y = place + 0.16 * (k - (len(rows[name]) - 1) / 2)
                axes.plot([low, high], [y, y], color=charts.COLOURS[0], linewidth=1.8)
                axes.plot([value], [y], "o", color=charts.COLOURS[0], markersize=4.5)
        charts.style_panel(axes, title, "")
        axes.grid(axis="x", color="#e6e6e6", linewidth=0.7)
        axes.locator_params(axis="x", nbins=5)
        axes.set_ylim(len(names) - 0.5, -0.5)
        # Without `parse_math=False`, a name such as "$1" could be drawn as a formula.
        labels = [charts.shorten(name) for name in names] if axes.get_subplotspec().is_first_col() else []
        axes.set_yticks(range(len(names)) if labels else [], labels, parse_math=False)
    return figure


def _samples(found: Sequence[Run], images: dict[str, bytes]) -> list[Block]:
    """Return blocks that show the last samples of each run as a strip; none if no run has samples.

    The first strip shows real images, if a run has stored some. The PNG file of each strip is added to
    `images`, keyed by file name.
    """
    strips = {f"{k:03}.png": (run.path.name, last_samples(run)) for k, run in enumerate(found, 1)}
    real = next((strip for run in found if (strip := real_images(run)) is not None), None)
    strips = {file: (name, strip) for file, (name, strip) in strips.items() if strip is not None}
    if not strips:
        return []
    said = "The last samples of each run, with seeds 0, 1, ... from left to right"
    if real is not None:
        strips = {"real.png": ("real images", real), **strips}
        said += ", below real images, which have no seed"
    images |= {file: render_png(strip) for file, (_, strip) in strips.items() if strip is not None}
    counts = sorted({run.recipe["steps"] for run in found if run.recipe and "steps" in run.recipe})
    said += f". Sampling steps: {', '.join(map(str, counts))}"
    rows = [(name, file) for file, (name, _) in strips.items()]
    return [Heading("Samples"), Text(f"{said}."), Strips(rows)]


def _growth(found: Sequence[Run], images: dict[str, bytes]) -> list[Block]:
    """Return blocks with the first sample of each run over training; add the PNG files to `images`."""
    strips = []
    for k, run in enumerate(found, 1):
        grown = growth(run)
        if grown is not None:
            strip, steps = grown
            batch = run.recipe["optim"]["batch"]
            seen = ", ".join(f"{step * batch:,}" for step in steps)
            images[f"growth-{k:03}.png"] = render_png(strip)
            strips.append((f"{run.path.name}: {seen} images", f"growth-{k:03}.png"))
    if not strips:
        return []
    said = "The sample of seed 0 over training, after the numbers of images at the left."
    return [Heading("Growth over training"), Text(said), Strips(strips)]


def _describe_step(run: Run, measured: Measurements) -> str:
    """Return a sentence if the memorisation test of a finished run tested an earlier step, else ""."""
    tested = measured.tested
    if tested is None or is_last_step(run, tested.step):
        return ""
    return f" This was tested at step {tested.step:,}, before the training went on."


def _measurements(found: Sequence[Run], images: dict[str, bytes]) -> list[Block]:
    """Return blocks with the results of `ddim memorisation`, `likelihood` and `diagnose` for the runs.

    Add the PNG files of their figures to `images`.
    """
    lines, notes = [], []
    folded: list[Block] = []
    every = [(run, read_measurements(run.path)) for run in found]
    common = common_bits_conditions((run, measured.bits) for run, measured in every)
    for k, (run, measured) in enumerate(every, 1):
        bits, why = format_run_bits(run, measured.bits, common)
        if measured.copies or bits:
            lines.append([text or MISSING for text in (run.path.name, measured.copies, bits)])
        notes += (
            [f"* {run.path.name}: this likelihood is not comparable with the others: {why}."] if why else []
        )
        notes += (
            [f"{run.path.name}: {measured.verdict}{_describe_step(run, measured)}"]
            if measured.verdict
            else []
        )
        notes += [_describe_unreadable(run, path) for paths in measured.damaged.values() for path in paths]
        shown = (("pairs", measured.pairs, "samples and their nearest training images"),)
        shown += (("diagnosis", measured.diagnosis, "errors at each noise level"),)
        for name, path, about in shown:
            if path is not None:
                images[f"{name}-{k:03}.png"] = path.read_bytes()
                title = f"{run.path.name}: {about}"
                folded.append(Folded(title, [Picture(f"{name}-{k:03}.png", title)]))
    heads = ["run", "copies of training images", "bits per dimension ↓"]
    if common is not None:
        notes.insert(0, f"Bits per dimension: ± is the standard error over images. {METHODS}")
    table: list[Block] = [Table(heads, lines, notes, words=1)] if lines or notes else []
    return [Heading("Further measurements"), *table, *folded] if table or folded else []


def _describe_unreadable(run: Run, path: Path) -> str:
    return f"{run.path.name}: {path.relative_to(run.path).as_posix()} cannot be read."


def _overview(found: Sequence[Run], rows: Sequence[Configuration]) -> str:
    """Return a text with the number of runs in each state, and the facts that all runs share."""
    counts = f"{format_count(len(found), 'run')} of {format_count(len(rows), 'configuration')}"
    states = ", ".join(f"{count} {state}" for state, count in Counter(run.state for run in found).items())
    known = [run for run in found if run.recipe]
    versions = [run.facts.get("versions", {}) for run in found if run.facts]
    facts = {
        "recipe": [run.recipe["name"] for run in known],
        # The folder of the images is left out, because others may see the report.
        "images": [Path(run.recipe["data"]["source"]).name for run in known],
        "images seen": [f"{run.images:,}" for run in known],
        "parameters": [f"{run.facts.get('parameters', 0):,}" for run in found if run.facts],
        **{name: [each.get(name, "") for each in versions] for name in ("processor", "torch", "ddim")},
    }
    if len({run.recipe["data"]["source"] for run in known}) > 1 and not have_same_images(known):
        del facts["images"]
    shared = [f"{name} {values[0]}" for name, values in facts.items() if len(set(values)) == 1 and values[0]]
    return f"{counts}: {states}." + (f" Shared by all: {', '.join(shared)}." if shared else "")


def _loss_curves(rows: Sequence[Configuration]) -> dict[str, list[dict[str, Any]]]:
    """Return the logged losses of at most `CURVES` configurations, averaged over repeats, keyed by name."""
    shown = _rows_with_curves(rows)
    # The logs are read one after the other, because each may have millions of lines.
    logged = {row.name: mean_log(read_metrics(run.path) for run in row.counted) for row in shown}
    return {name: lines for name, lines in logged.items() if any("loss" in line for line in lines)}


def _tails(row: Configuration, mean: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the logs of runs that continue after the end of the mean log; each begins at that end."""
    last = max((line["images"] for line in mean), default=-1)
    logs = (read_metrics(run.path) for run in row.counted)
    further = (log for log in logs if any("loss" in line and line["images"] > last for line in log))
    return [[line for line in log if line["images"] >= last] for log in further]


def mean_log(logs: Iterable[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return the mean of several logs.

    The mean has a line for each number of images that is in all logs. This line has the mean of each value
    that all logs have at this number of images.
    """
    pages: list[dict[int, dict[str, float]]] = []
    for log in logs:
        page: dict[int, dict[str, float]] = {}
        for line in log:
            known = {name: line[name] for name in MEASURES if line.get(name) is not None}
            page.setdefault(line["images"], {}).update(known)
        pages.append(page)
    lines = []
    for images in sorted(set.intersection(*(set(page) for page in pages))):
        here = [page[images] for page in pages]
        names = [name for name in MEASURES if all(name in values for values in here)]
        lines.append({"images": images, **{n: sum(values[n] for values in here) / len(here) for n in names}})
    return lines


def _rows_with_curves(rows: Sequence[Configuration]) -> list[Configuration]:
    """Return the rows in order; if there are too many, only the `CURVES` rows with the lowest image MAE."""

    def error(row: Configuration) -> float:
        numbers = summarise_metrics(row, None)
        return numbers["image_mae"].mean if "image_mae" in numbers else float("inf")

    kept = sorted(rows, key=error)[:CURVES]
    return [row for row in rows if row in kept]


def _has_finish(run: Run) -> bool:
    loss = run.recipe.get("objective", {})
    return bool(loss.get("finish")) and run.images > loss.get("finish_after", 0)


def _loss_caption(
    rows: Sequence[Configuration], curves: Mapping[str, object], tails: Mapping[str, Sequence[object]]
) -> str:
    caption = "Losses against images seen; means over repeats."
    if any(tails.values()):
        caption += " Thin lines are single runs, beyond the images that all repeats have logged."
    if any(_has_finish(run) for row in rows for run in row.runs):
        caption += " A training loss can jump near the end, where objective.finish changes the loss."
    if len(curves) == CURVES < len(rows):
        caption += f" The {len(curves)} of {len(rows)} configurations with the lowest image MAE are shown."
    return caption
