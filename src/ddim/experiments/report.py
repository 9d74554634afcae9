"""Runs -> a report: what was tried, what came of it, loss curves, and pictures of the same seeds."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddim.errors import UserError
from ddim.evaluation import figures
from ddim.experiments import conditions as ways
from ddim.experiments import summary as results
from ddim.experiments.conditions import Way
from ddim.experiments.index import UNITS, Run
from ddim.experiments.summary import METRICS, MISSING, Configuration, Spread
from ddim.plots import charts
from ddim.plots.page import Block, Cell, Heading, Picture, Strips, Table, Text, check_page_path, save_page
from ddim.runs.flat import ERRORS
from ddim.runs.folder import read_metrics

CURVES = len(charts.COLOURS)
"""Curves of so many configurations can be told apart."""
COLUMNS = 8
"""Pictures in a strip."""
GAP = 2
"""White pixels between the pictures of a grid."""


def write(found: Sequence[Run], out: Path, title: str) -> list[Path]:
    """Write the report of runs as `out`, an .html file, and as Markdown with its pictures beside it.

    Returns the two files. UserError where there is no run, and as `ddim.plots.page.check_page_path`.
    """
    if not found:
        raise UserError("there is no run to report on")
    check_page_path(out)
    return save_page(out, title, *report(found))


def report(found: Sequence[Run]) -> tuple[list[Block], dict[str, bytes]]:
    """The blocks of a report, and its pictures as PNG files by name."""
    rows = results.configurations(found)
    blocks: list[Block] = [Text(_summary(found, rows))]
    images: dict[str, bytes] = {}
    if rows:
        blocks += [Heading("Results"), _table(rows, ways.standard(found))]
    curves = _curves(rows)
    if curves:
        images["losses.png"] = png(charts.rasterise(figures.losses(curves)))
        blocks += [Heading("Losses"), Picture("losses.png", _about_curves(rows, curves))]
    strips = {}
    for number, run in enumerate(found, 1):
        strip = last_samples(run)
        if strip is not None:
            name = f"{number:03}.png"
            images[name], strips[name] = png(strip), run.path.name
    if strips:
        blocks += [
            Heading("Pictures"),
            Text("The last pictures of each run, from left to right of seeds 0, 1, ...: of the same noise."),
            Strips([(name, file) for file, name in strips.items()]),
        ]
    return [*blocks, Heading("Runs"), _runs(found)], images


def last_samples(run: Run) -> np.ndarray | None:
    """(H, W, 3) uint8: the first pictures of a run's last grid in a row, enlarged.

    None without a grid that can be read, or a recipe that says how large its pictures are.
    """
    files = sorted((run.path / "samples").glob("step-*.png"))
    if not files or not run.recipe:
        return None
    height, width = run.recipe["data"]["size"]
    try:
        with Image.open(files[-1]) as image:
            sheet = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError):  # Pillow answers damaged files with any of these
        return None
    cells = cut(sheet, height, width)[: min(COLUMNS, run.recipe["report"]["grid"])]
    scale = max(1, round(64 / max(height, width)))
    strip = np.full((height, len(cells) * (width + GAP) - GAP, 3), 255, np.uint8)
    for k, cell in enumerate(cells):
        strip[:, k * (width + GAP) : k * (width + GAP) + width] = cell
    return strip.repeat(scale, 0).repeat(scale, 1)


def cut(sheet: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """The pictures (height, width, C) of a grid as `ddim.plots.pictures.make_sheet` lays them, row by row."""
    tops = range(0, sheet.shape[0] - height + 1, height + GAP)
    lefts = range(0, sheet.shape[1] - width + 1, width + GAP)
    return [sheet[top : top + height, left : left + width] for top in tops for left in lefts]


def png(pixels: np.ndarray) -> bytes:
    """A picture (H, W, 3) uint8 as a PNG file."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", optimize=True)
    return content.getvalue()


def shown(number: Spread) -> str:
    """A number with its spread over repeats, or with its own interval."""
    # Of a FID of hundreds fewer digits mean something.
    digits = 4 if abs(number.mean) < 10 else 2
    if number.deviation is not None:
        return f"{number.mean:.{digits}f} ± {number.deviation:.{digits}f}"
    if number.interval is not None:
        return f"{number.mean:.{digits}f} [{number.interval[0]:.{digits}f}, {number.interval[1]:.{digits}f}]"
    return f"{number.mean:.{digits}f}"


def _summary(found: Sequence[Run], rows: Sequence[Configuration]) -> str:
    """How many runs there are in which states, and what they share."""
    counts = f"{_count(len(found), 'run')} of {_count(len(rows), 'configuration')}"
    states = ", ".join(f"{count} {state}" for state, count in Counter(run.state for run in found).items())
    known = [run for run in found if run.recipe]
    versions = [run.facts.get("versions", {}) for run in found if run.facts]
    said = {
        "recipe": [run.recipe["name"] for run in known],
        # Others who read the page need not know where on this machine they lie.
        "images": [Path(run.recipe["data"]["source"]).name for run in known],
        "seen": [f"{run.total:,}" if run.total else "" for run in known],
        "parameters": [f"{run.facts.get('parameters', 0):,}" for run in found if run.facts],
        **{name: [each.get(name, "") for each in versions] for name in ("processor", "torch", "ddim")},
    }
    if len({run.recipe["data"]["source"] for run in known}) > 1 and not results.same_images(known):
        del said["images"]
    shared = [f"{name} {values[0]}" for name, values in said.items() if len(set(values)) == 1 and values[0]]
    return f"{counts}: {states}." + (f" Shared by all: {', '.join(shared)}." if shared else "")


def _table(rows: Sequence[Configuration], judged: Way | None) -> Table:
    fields = list(rows[0].choice)
    found = [results.numbers(row, judged) for row in rows]
    metrics = [name for name in METRICS if any(name in numbers for numbers in found)]
    best = {
        name: _best(name, rows, found) if judged is None or judged.ranks(name) else None for name in metrics
    }
    lines = []
    for k, (row, numbers) in enumerate(zip(rows, found, strict=True)):
        finished = sum(run.state == "finished" for run in row.runs)
        cells = [Cell(word) for word in row.choice.values()] if fields else [Cell(row.name)]
        cells.append(Cell(f"{finished} of {len(row.runs)}"))
        for name in metrics:
            text = shown(numbers[name]) if name in numbers else _absent(row, judged, name)
            cells.append(Cell(text, best=best[name] == k))
        lines.append(cells)
    arrows = {-1: "↓", 1: "↑"}
    titles = [f"{METRICS[name][0]} {arrows[METRICS[name][1]]}" for name in metrics]
    heads = [*(fields or ["recipe"]), "finished", *titles]
    notes = [*_notes(rows, judged, metrics), *_partial(rows, found)]
    return Table(heads, lines, words=len(fields) or 1, notes=notes)


def _best(name: str, rows: Sequence[Configuration], found: Sequence[Mapping[str, Spread]]) -> int | None:
    """The row whose mean is best among the finished ones; None where no two compare, or two are equal."""
    if len(_data(rows)) > 1 or (name in ERRORS and _units_differ(rows)):
        return None
    finished = [all(run.state == "finished" for run in row.counted) for row in rows]
    known = [k for k, numbers in enumerate(found) if name in numbers and finished[k]]
    order = sorted(known, key=lambda k: -METRICS[name][1] * found[k][name].mean)
    alike = len(order) < 2 or found[order[0]][name].mean == found[order[1]][name].mean
    return None if alike else order[0]


def _absent(row: Configuration, judged: Way | None, name: str) -> str:
    """What stands in place of a number that is not there, or does not compare."""
    unlike = judged is not None and name not in ERRORS and results.other_ways(row, judged)
    return "not comparable" if unlike else MISSING


def _notes(rows: Sequence[Configuration], judged: Way | None, metrics: Sequence[str]) -> list[str]:
    """What must be known to read the numbers of a table of some metrics."""
    notes = []
    if any(len(row.counted) > 1 for row in rows):
        notes.append("± is the standard deviation over repeats, which differ in their seed alone.")
    again = [run.path.name for row in rows for run in row.again]
    if again:
        notes.append(f"Counted once, for another run has the same recipe and seed: {', '.join(again)}.")
    if judged is not None:
        _, part, size, images = judged.reference
        notes.append(
            f"KID, FID and their like: {judged.pictures:,} pictures of each run against {images:,} images "
            f"(part {part}, {'x'.join(map(str, size))}), by features of {judged.extractor} "
            f"(weights {judged.weights[:8]}, {judged.resize}); [ ] are 95 % intervals of one run."
        )
        unranked = [METRICS[name][0] for name in metrics if not judged.ranks(name)]
        if unranked:
            notes.append(f"Too few images to rank by {', '.join(unranked)}.")
        for row in rows:
            unlike = [ways.unlike(way, judged) for way in results.other_ways(row, judged)]
            notes += [f"Not comparable: {row.name}, judged with {text}." for text in unlike]
    if _units_differ(rows):
        notes.append(
            "Schedules or pixels differ: an MAE is of the noise of its schedule, in units of its pixels, and "
            "compares within these only."
        )
    if len(_data(rows)) > 1:
        notes.append("Data differ: no number compares between runs of different images.")
    if any(run.state != "finished" for row in rows for run in row.counted):
        notes.append("Of a configuration without a finished run, numbers are those so far.")
    return notes


def _partial(rows: Sequence[Configuration], found: Sequence[Mapping[str, Spread]]) -> Iterator[str]:
    """Which numbers are of some of the runs that count, and not of all."""
    for row, numbers in zip(rows, found, strict=True):
        of = len(row.counted)
        for n in range(1, of):
            names = [METRICS[name][0] for name, number in numbers.items() if number.n == n]
            if names:
                yield f"Of {n} of the {of} runs of {row.name} alone: {', '.join(names)}."


def _units_differ(rows: Sequence[Configuration]) -> bool:
    return any(name.split(".")[0] in UNITS for row in rows for name in row.choice)


def _data(rows: Sequence[Configuration]) -> set[str]:
    """The fingerprints of the images that runs were trained on."""
    return {run.facts["data"]["fingerprint"] for row in rows for run in row.runs if "data" in run.facts}


def _curves(rows: Sequence[Configuration]) -> dict[str, list[dict[str, Any]]]:
    """Means over repeats of what the runs logged, of as many configurations as can be told apart."""
    logged = {row.name: mean_lines([read_metrics(run.path) for run in row.counted]) for row in _first(rows)}
    return {name: lines for name, lines in logged.items() if any("loss" in line for line in lines)}


def mean_lines(logs: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One log for several: at every count of images, means of the measures that all of them have there."""
    pages: list[dict[int, dict[str, float]]] = []
    for log in logs:
        page: dict[int, dict[str, float]] = {}
        for line in log:
            known = {name: line[name] for name in figures.MEASURES if line.get(name) is not None}
            page.setdefault(line["images"], {}).update(known)
        pages.append(page)
    lines = []
    for images in sorted(set.intersection(*(set(page) for page in pages))):
        here = [page[images] for page in pages]
        names = [name for name in figures.MEASURES if all(name in values for values in here)]
        lines.append({"images": images, **{n: sum(values[n] for values in here) / len(here) for n in names}})
    return lines


def _first(rows: Sequence[Configuration]) -> list[Configuration]:
    """The best by image MAE, where there are too many for one figure, in the order of the table."""

    def error(row: Configuration) -> float:
        numbers = results.numbers(row, None)
        return numbers["image_mae"].mean if "image_mae" in numbers else float("inf")

    kept = sorted(rows, key=error)[:CURVES]
    return [row for row in rows if row in kept]


def _about_curves(rows: Sequence[Configuration], curves: Mapping[str, object]) -> str:
    said = "Losses against the images seen, means over repeats."
    if len(curves) < len(rows):
        said += f" {len(curves)} of {len(rows)} configurations: those of the least image MAE."
    return said


def _runs(found: Sequence[Run]) -> Table:
    lines = []
    for run in found:
        pace = f"{run.images:,}" + (f" of {run.total:,}" if run.total else "")
        seed = run.recipe.get("seed")
        lines.append([Cell(text) for text in (run.path.name, run.state, str(seed), pace)])
    why = [f"{run.path.name}: {run.why}" for run in found if run.why]
    return Table(("run", "state", "seed", "images seen"), lines, words=2, notes=why)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
