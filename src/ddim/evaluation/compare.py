"""Tables of evaluations by a metric, their figure, and the combinations of choices of sampling in them.

`ddim compare` returns such a table, and so does `ddim evaluate` if an option has several values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ddim.diffusion.grids import GRIDS
from ddim.diffusion.samplers import SAMPLERS
from ddim.diffusion.schedules import SCHEDULES
from ddim.errors import UserError, quote
from ddim.evaluation import record as records
from ddim.evaluation.measure import Difference, measure_difference
from ddim.evaluation.record import Evaluation, format_estimate, read_evaluation, why_not_comparable
from ddim.metrics.catalogue import METRICS, metric_name
from ddim.metrics.estimate import Estimate
from ddim.plots import charts
from ddim.plots.table import Table, Tabular, format_cell
from ddim.recipe.codec import dump
from ddim.recipe.options import flatten, list_varied, option_text, split_list, strip_brackets
from ddim.runs.names import is_run_folder

# Combinations of choices


OWN = ("steps", "weights", "label", "guidance", "guidance_interval", "guide_with", "searched")
"""Choices that are arguments of `evaluate`; all other choices are fields of the recipe."""

_KINDS: dict[str, Mapping[str, type]] = {"sampler": SAMPLERS, "grid": GRIDS, "sampled_on": SCHEDULES}

_LISTS = ("grid.times", "grid.shares", "guidance_interval")
"""Choices whose value is a list of numbers: "1,0.5" is one value, and "[1,0.5],[1,0.2]" are two values."""

Choice = dict[str, Any]
"""Values keyed by the name of the choice: {"steps": 10, "sampler": "ddim", "sampler.eta": 0.5}."""


def expand_choices(choices: Mapping[str, Any]) -> list[Choice]:
    """Return every combination of choices; the value of the last choice changes fastest.

    A field is combined only with the samplers, grids and schedules that have it. For example,
    {"sampler": ["ddim", "ddpm"], "sampler.eta": [0, 1], "sampler.variance": "large"} gives three
    combinations: only "ddim" has the field eta, and only "ddpm" has the field variance.

    Args:
        choices: a value or a list of values, keyed by the name of the choice. Names are "steps", "weights",
            "label", "guidance", "guidance_interval", "guide_with", and fields of sampler, grid, sampled_on
            and clip. A text may be a list too: "0,0.5,1". A sampler, grid or schedule may be a name or an
            object such as `DDIM(eta=0.5)`.
    """
    listed = {name: _list_values(name, given) for name, given in choices.items()}
    # The fields of a part follow the part, so that combinations with one sampler stand together.
    parts = list(dict.fromkeys(name.partition(".")[0] for name in listed))
    names = sorted(listed, key=lambda name: (parts.index(name.partition(".")[0]), "." in name))
    found: list[Choice] = []
    for values in itertools.product(*(listed[name] for name in names)):
        choice = _combine(dict(zip(names, values, strict=True)), listed)
        if choice not in found:
            found.append(choice)
    return found


def _combine(values: Choice, listed: Mapping[str, list[Any]]) -> Choice:
    """Return one combination of values, without the fields that only other samplers or grids have."""
    combined: Choice = {}
    for name, value in values.items():
        part, dot, field = name.partition(".")
        kinds = listed.get(part, []) if dot else []
        # A field that no sampler has is kept, so that the recipe reports the error.
        known = any(_has_field(part, kind, field) for kind in kinds)
        if not known or _has_field(part, values[part], field):
            combined |= _name_value(name, value)
    return combined


def _has_field(part: str, kind: Any, field: str) -> bool:  # noqa: ANN401 (any value of a choice)
    """Return whether a sampler, grid or schedule has a field; `kind` is its name or an object."""
    known = _KINDS.get(part, {}).get(kind) if isinstance(kind, str) else type(kind)
    return not is_dataclass(known) or field in [each.name for each in fields(known)]


def _name_value(name: str, value: Any) -> Choice:  # noqa: ANN401
    """Return the choices for a value: DDIM(eta=0.5) becomes {"sampler": "ddim", "sampler.eta": 0.5}."""
    if not is_dataclass(value):
        return {name: value}
    tree = dump(value, named=True)
    # The hash of a part that the user wrote is no field. The newest part with this name is `value`.
    tree.pop("sha256", None)
    return {name: tree.pop("kind")} | {f"{name}.{field}": inner for field, inner in tree.items()}


def _list_values(name: str, given: Any) -> list[Any]:  # noqa: ANN401
    """Return the values of a choice, which are a list, or a text such as "0,0.5,1", or one value."""
    if isinstance(given, str):
        if name not in _LISTS:
            return split_list(given)
        if not given.startswith("["):
            return [given]
        return [strip_brackets(item) for item in split_list(given)]
    if not isinstance(given, list | tuple | range):
        return [given]
    if name in _LISTS and not any(isinstance(each, list | tuple | str) for each in given):
        return [given]
    return list(given)


def name_choices(combinations: Sequence[Choice]) -> list[str]:
    """Return a short name of each combination, such as "ddim eta 0.5 guidance 2", without the steps.

    It is made of the choices that differ, see `list_varied`.
    """
    differing = [name for name in list_varied(combinations) if name != "steps"]
    return [
        " ".join(_name_choice(name, choice[name]) for name in differing if name in choice)
        for choice in combinations
    ]


def _name_choice(name: str, value: Any) -> str:  # noqa: ANN401
    """Return the name of a value, such as "ddim", "eta 0.5" or "guidance 2"."""
    text = f"{value:g}" if isinstance(value, float) else option_text(value)
    if name in _KINDS:
        return text
    return f"{name.rpartition('.')[2].replace('_', ' ')} {text}"


# Tables


@dataclass(frozen=True)
class Cell:
    """An evaluation in a table.

    Attributes:
        row: the name of its row.
        column: the name of its column.
        evaluation: the evaluation.
        difference: the difference from the first evaluation of the column, or a sentence that says why it is
            not known. None for the first evaluation itself.
        unranked: the reason why it cannot be ranked with the first evaluation, None if it can.
        choice: the values of the choices of sampling that the table varies, keyed by name.
    """

    row: str
    column: str
    evaluation: Evaluation
    difference: Difference | str | None = None
    unranked: str | None = None
    choice: Choice = field(default_factory=dict)

    @property
    def remark(self) -> str:
        """The difference from the first evaluation, or why it is not known."""
        return f"not ranked: {self.unranked}" if self.unranked else str(self.difference or "the first")


@dataclass(frozen=True, repr=False)
class EvaluationTable(Tabular):
    """Evaluations with their values of a metric, and their differences from the first one of their column.

    Attributes:
        metric: the metric that is shown; the evaluations contain all metrics.
        cells: the evaluations, row by row.
        folder: the folder with table.csv and table.png, if they were written.
        choices: the settings that differ between the evaluations. Each name has a list with one value for
            each cell, None for a cell without this setting.
        missing: the runs that have no evaluation.
    """

    metric: str
    cells: Sequence[Cell]
    folder: Path | None = None
    choices: Mapping[str, list[Any]] = field(default_factory=dict)
    missing: Sequence[Path] = ()

    @property
    def rows(self) -> list[str]:
        """The names of the rows, in order."""
        return list(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in order."""
        return list(dict.fromkeys(cell.column for cell in self.cells))

    @property
    def verdict(self) -> str:
        """Whether the best evaluation, and the first or the next best of its column, differ by chance."""
        ranked = rank_cells(self.cells, self.metric)
        column = [cell for cell in ranked if cell.column == ranked[0].column]
        others = [cell for cell in column if cell.difference is not None]
        if not others:
            return f"these values should not be ranked: {self.cells[-1].unranked}"
        pair = [cell for cell in column if cell.difference is None or cell is others[0]]
        better, worse = map(self.name_cell, pair)
        one, other = (cell.evaluation.nfe for cell in pair)
        cost = f"; they need {one} and {other} NFE" if one != other else ""
        difference = others[0].difference
        if not isinstance(difference, Difference):
            equal = len({cell.evaluation.value(self.metric) for cell in pair}) == 1
            best = f"{better} and {worse} have equal values" if equal else f"{better} has the best value"
            return f"{best}; by chance or not is not known: {difference}"
        if not difference.distinguishable_among(len(column) - 1):
            return f"{better} and {worse} cannot be told apart: their difference may be chance{cost}"
        return f"{better} is better than {worse}: the difference is larger than chance{cost}"

    @property
    def title(self) -> str:
        """The metric, whether lower or higher values are better, the images and the features."""
        metric, conditions = METRICS[self.metric], self.cells[0].evaluation.conditions
        better = f"{metric.title}, {'lower' if metric.lower_is_better else 'higher'} is better (* the best)"
        return f"{better}; equal seeds, {conditions}; {self.folder}" if self.folder else better

    @property
    def yardstick(self) -> Estimate | None:
        """The metric of real images in place of samples; None if it was not measured.

        Also None if the metric depends on the number of images, and there are fewer real images than samples.
        """
        first = self.cells[0].evaluation
        real = first.yardstick
        if real is None or (real.images < first.count and METRICS[self.metric].biased):
            return None
        return real.metrics.get(self.metric)

    @property
    def notes(self) -> list[str]:
        """Values and differences with intervals, what is easily misread, what is missing, what differs."""
        notes = []
        for cell in self.cells:
            value = format_estimate(cell.evaluation.estimate(self.metric))
            notes.append(f"{self.name_cell(cell)}: {value}; {cell.remark}")
        if self.yardstick:
            notes.append(f"real images in place of samples: {format_estimate(self.yardstick)}")
        notes += [f"{run} has no evaluation: `ddim evaluate {quote(run)}` makes one" for run in self.missing]
        return notes + [f"{name}: {', '.join(map(str, values))}" for name, values in self.choices.items()]

    def name_cell(self, cell: Cell) -> str:
        """Return the name of a cell, such as "ddim eta 0, 10 steps"; a single column is not named."""
        return cell.row if len(self.columns) == 1 else f"{cell.row}, {cell.column}"

    def to_records(self) -> list[dict[str, Any]]:
        """Return a flat dictionary for each cell: choices, NFE, metrics, difference, a note on it, folder."""
        records = []
        for cell in self.cells:
            each, difference = cell.evaluation, cell.difference
            record = {"row": cell.row, "column": cell.column, **cell.choice, "samples": each.count}
            record |= {"sampling": each.effort, "nfe": each.nfe}
            estimates = {name: each.estimate(name) for name in METRICS}
            if isinstance(difference, Difference):
                estimates["difference"] = difference
                record["paired"] = difference.paired
            for name, estimate in estimates.items():
                record[name] = estimate.value
                if estimate.low is not None:
                    record |= {f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            records.append({**record, "note": cell.remark, "folder": each.folder})
        return records

    def to_json(self) -> dict[str, Any]:
        """Return the whole table as plain values."""
        first = next(cell for cell in self.cells if cell.difference is None and cell.unranked is None)
        real = self.yardstick and self.yardstick.to_json()
        table = {"folder": self.folder, "metric": self.metric, "first": first.evaluation.folder}
        more = {"choices": self.choices, "missing": self.missing, "yardstick": real}
        return {**super().to_json(), **table, **more}

    def to_csv(self) -> str:
        """Return the cells as CSV, one line for each; see `to_records`."""
        return Table.from_records(self.to_records()).to_csv()

    def _shown_rows(self) -> list[dict[str, Any]]:
        """Return a line for each row; the best value of a column has a star."""
        lines: dict[str, Any] = {}
        for cell in self.cells:
            each, line = cell.evaluation, lines.setdefault(cell.row, {"": cell.row})
            ranked = rank_cells([other for other in self.cells if other.column == cell.column], self.metric)
            best = len(ranked) > 1 and cell is ranked[0]
            line[cell.column] = "* " * best + format_cell(each.value(self.metric))
            if len(self.columns) > 1:
                line[cell.column] += f" ({each.effort})"
            else:
                said = cell.remark.partition(":")[0]
                line |= {"samples": each.count, "sampling": each.effort, "difference from the first": said}
        return list(lines.values())


def rank_cells(cells: Sequence[Cell], metric: str) -> list[Cell]:
    """Return the cells that may be ranked, the best first."""
    ranked = [cell for cell in cells if cell.unranked is None]
    # Only a first evaluation, with which nothing can be ranked, may lack the metric.
    worse = not METRICS[metric].lower_is_better
    return sorted(ranked, key=lambda cell: cell.evaluation.value(metric) or 0.0, reverse=worse)


def arrange_cells(choices: Sequence[Choice], every: Sequence[Evaluation], metric: str) -> list[Cell]:
    """Return the cells of a table, row by row, with the differences from the first row of each column."""
    rows, title = name_choices(choices), METRICS[metric].title
    steps = [choice.get("steps") for choice in choices]
    columns = [title if len(set(steps)) == 1 else f"{count} steps" for count in steps]
    if len(set(rows)) == 1:
        # Only the number of steps differs, so each number gets a row.
        rows, columns = columns, [title] * len(steps)
    first: dict[str, Evaluation] = {}
    cells = []
    for choice, row, column, each in zip(choices, rows, columns, every, strict=True):
        cells.append(make_cell(row, column, each, first.setdefault(column, each), metric, choice))
    return sorted(cells, key=lambda cell: rows.index(cell.row))


def make_cell(
    row: str, column: str, each: Evaluation, first: Evaluation, metric: str, choice: Choice | None = None
) -> Cell:
    """Return the cell of an evaluation, with its difference from the first one, if they may be ranked."""
    unranked = None if each is first else why_not_comparable(first, each, metric)
    difference = None if unranked or each is first else measure_difference(each, first, metric)
    return Cell(row, column, each, difference, unranked, choice or {})


def plot_table(table: EvaluationTable) -> charts.Figure:
    """Return a figure of a table: a line with 95 % intervals for each row, over the NFE of a sample."""
    figure = charts.new_figure(7.2, 4.2)
    axes = figure.add_subplot()
    for k, row in enumerate(table.rows):
        cells = [cell for cell in table.cells if cell.row == row]
        estimates = [cell.evaluation.estimate(table.metric) for cell in cells]
        halves = [0.0 if each.low is None else (each.high - each.low) / 2 for each in estimates]
        # Lines are moved apart a little, so that intervals at equal x do not hide each other.
        x = [(cell.evaluation.nfe or 0) * 1.015 ** (k - (len(table.rows) - 1) / 2) for cell in cells]
        style = {"marker": "o", "capsize": 2, "markersize": 4, "linewidth": 1.6}
        values = [math.nan if each.value is None else each.value for each in estimates]
        axes.errorbar(x, values, halves, label=row, color=charts.COLOURS[k % len(charts.COLOURS)], **style)
    if real := table.yardstick:
        axes.axhline(real.value, color=charts.FAINT, linestyle="--", linewidth=1, label="real images")
    ticks = sorted({cell.evaluation.nfe or 0 for cell in table.cells})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    charts.style_panel(axes, "network evaluations per sample", METRICS[table.metric].title)
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.legend(frameon=False, fontsize=9)
    return figure


# The command


Compared: TypeAlias = str | Path | Evaluation
"""A result of `evaluate`, or the path of a record, its folder or a run; a run means its newest evaluation."""


def compare(*evaluations: Compared | Iterable[Compared], metric: str = "kid") -> EvaluationTable:
    """Compare evaluations, and say whether differences are larger than chance.

    Evaluations are ranked if they have the same features and reference and, except by KID and FID-infinity,
    the same number of samples. Differences from the first evaluation have 95 % confidence intervals. They are
    paired if both evaluations sampled the same seeds. Except for KID, the intervals are conservative. The
    best of several is called better only by an interval that is corrected for their number (Bonferroni).

    Args:
        evaluations: runs (the newest evaluation of each), evaluations or their folders, or a folder of runs
            such as runs/; the first one is compared with the others.
        metric: kid, fid, fid_infinity, precision, recall, density or coverage.

    Returns:
        The evaluations, best first; then those that cannot be ranked. If the first one can be ranked with
        none of the others, the next one takes its place.

    Raises:
        UserError: if a record cannot be read, or no two evaluations can be compared.

    Example:
        >>> ddim.compare(run, other_run)
        >>> ddim.compare([run, other_run, ddim.evaluate(images, "photos/")], metric="fid")

    Commands:
        ddim compare runs/photos-fast-1 runs/photos-fast-2
        ddim compare runs/ --metric coverage
    """
    metric, title, reasons = metric_name(metric), METRICS[metric_name(metric)].title, []
    opened = [each for named in evaluations for each in _open(named)]
    missing = [each for each in opened if isinstance(each, Path)]
    every = [each for each in opened if isinstance(each, Evaluation)]
    if len(every) < 2:
        advice = f"evaluate another run, `ddim evaluate {quote(missing[0] if missing else 'runs/NAME')}`"
        raise UserError(f"a comparison needs at least two evaluations, got {len(every)}: {advice}")
    for first in every:
        reasons = [why_not_comparable(first, each, metric) for each in every]
        if reasons.count(None) > 1:
            break
    else:
        raise UserError(f"nothing can be compared by {title}: {reasons[0]}")
    named = zip(_name_evaluations(every), every, strict=True)
    cells = [make_cell(name, title, each, first, metric) for name, each in named]
    cells = [*rank_cells(cells, metric), *(cell for cell in cells if cell.unranked)]
    choices = list_differing_choices([cell.evaluation for cell in cells])
    return EvaluationTable(metric, cells, None, choices, missing)


def _open(named: Compared | Iterable[Compared]) -> list[Evaluation | Path]:
    """Return the evaluations that names mean, and the runs in folders that have none."""
    if isinstance(named, Evaluation):
        return [named]
    if not isinstance(named, str | Path):
        return [each for one in named for each in _open(one)]
    path, runs = Path(named), []
    if path.is_dir() and not is_run_folder(path):
        runs = sorted(filter(is_run_folder, path.iterdir()))
    opened = [read_evaluation(run) if records.list_results(run) else run for run in runs]
    return opened or [read_evaluation(path)]


def _name_evaluations(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return a name for each evaluation: of its run, or else how it was sampled, or else its folder."""
    homes = [each.folder.parent for each in evaluations]
    runs = [home.parent.name if home.name == records.FOLDER else "" for home in homes]
    for names in (runs, [each.name for each in evaluations]):
        if all(names) and len(set(names)) == len(names):
            return names
    return [str(each.folder) for each in evaluations]


def list_differing_choices(evaluations: Sequence[Evaluation]) -> dict[str, list[Any]]:
    """Return {name: values} of the settings that differ, with None for an evaluation without the setting."""
    tables = [_list_settings(evaluation) for evaluation in evaluations]
    names = dict.fromkeys(name for table in tables for name in table)
    columns = {name: [table.get(name) for table in tables] for name in names}
    return {name: values for name, values in columns.items() if any(value != values[0] for value in values)}


def _list_settings(evaluation: Evaluation) -> dict[str, Any]:
    """Return the settings of an evaluation as one flat dictionary."""
    sampling = evaluation.sampling
    if sampling is None:
        return {"samples": evaluation.count, "source": evaluation.source}
    names = ("sampler", "grid", "weights", "nfe", "label", "guidance", "guidance_interval", "guide")
    settings = {name: sampling.get(name) for name in names}
    settings |= {"steps": len(sampling["times"]), "first seed": sampling["seeds"][0]}
    settings |= {"images seen": sampling["step"] * sampling["recipe"]["optim"]["batch"]}
    return flatten({"samples": evaluation.count, **sampling["recipe"], **settings})
