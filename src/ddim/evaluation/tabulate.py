"""Evaluate all combinations of choices of sampling, and collect the evaluations in a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ddim.errors import UserError, describe_given
from ddim.evaluation.choices import Choice, choose_samples, expand_choices, name_choices
from ddim.evaluation.compare import load_features, measure_difference, remark_on_nfe
from ddim.evaluation.conditions import Obstacle, find_obstacle
from ddim.evaluation.evaluate import describe_reference, evaluate_images
from ddim.evaluation.evaluated_images import (
    EvaluatedImages,
    find_named_checkpoint,
    is_run,
    open_evaluated_images,
    prepare_sampling,
)
from ddim.evaluation.record import Evaluation, read_evaluation
from ddim.evaluation.record_entries import Features, ReferenceSet, SamplingRecord, parse_sampling
from ddim.evaluation.reference import Reference
from ddim.evaluation.samples import Samples
from ddim.evaluation.table import EvaluationTable, TableCell
from ddim.machine.distributed import current_processes
from ddim.machine.progress import Progress, ignore_progress, with_bar
from ddim.metrics.catalogue import DEFAULT, find_metric, metric_name
from ddim.metrics.features import Extractor, open_extractor
from ddim.runs.folder import list_numbered_folders
from ddim.sampling.pipeline import load
from ddim.sampling.record import sample_conditions

_FORMS = {
    "choices": 'a dictionary, such as {"steps": [10, 20]}',
    "samples": "ddim.Samples, such as ddim.Samples(n=1000)",
    "reference": 'ddim.Reference, such as ddim.Reference("photos/")',
}
"""The form of each argument of `tabulate`, for error messages."""


@with_bar
def tabulate(
    source: str | Path,
    choices: Mapping[str, Any],
    samples: Samples = Samples(),  # noqa: B008  (a frozen value)
    reference: Reference = Reference(),  # noqa: B008
    *,
    metric: str = "kid",
    features: str | Extractor = DEFAULT,
    progress: Progress = ignore_progress,
) -> EvaluationTable:
    """Evaluate a run under every combination of choices of sampling, with equal seeds.

    Samples of equal seeds start from equal noise, so differences within a column are paired. Each combination
    is one evaluation in RUN/evaluations. Evaluations that exist already are not repeated. To continue a call
    that was stopped, repeat it. If you add values of a choice, only the new combinations are evaluated.

    Args:
        source: a run folder or checkpoint.
        choices: a value or a list of values for each choice; see `expand_choices`.
        samples: number of samples, seeds and options that all combinations share.
        reference: the images with which samples are compared, by default the run's own held-out images.
        metric: the metric that the table shows.
        features: the network that computes the features, as for `ddim.evaluate`.
        progress: called with the network evaluations of all combinations, and while features are computed.

    Returns:
        A table with a column for each number of steps, and a row for each combination of the other choices.

    Raises:
        UserError: if `source` is no run, or a choice or combination is invalid. No evaluation has begun then.

    Example:
        >>> table = ddim.tabulate(run, {"steps": [10, 20, 50], "sampler.eta": [0, 0.5, 1]})
        >>> table.to_frame()
    """
    metric = metric_name(metric)
    source = Path(source)
    for name, value, kind in (
        ("choices", choices, Mapping),
        ("samples", samples, Samples),
        ("reference", reference, Reference),
    ):
        if not isinstance(value, kind):
            raise UserError(f"{name} must be {_FORMS[name]}, got {describe_given(value)}")
    if not is_run(Path(source)):
        raise UserError(f"{source} is not a run: a table compares ways to sample a run")
    combinations = expand_choices(choices)
    planned = [choose_samples(samples, choice) for choice in combinations]
    works = _count_evaluations(Path(source), planned)
    extractor = open_extractor(features)
    found = []
    for k, each in enumerate(planned):
        report = _report_sum(progress, works, k)
        images = open_evaluated_images(Path(source), each, reference, report)
        there = _find_evaluation(images, extractor)
        found.append(there or evaluate_images(images, extractor, None, report))
    cells = _arrange(combinations, found, metric)
    obstacle = _find_first_obstacle(cells, metric)
    notes = _notes(cells, obstacle, saved=samples.guidance is None)
    return EvaluationTable(metric, cells, tuple(notes), ranked=obstacle is None)


def _count_evaluations(source: Path, planned: Sequence[Samples]) -> list[int]:
    """Check every combination of choices, and return the number of network evaluations that each needs."""
    source, device = find_named_checkpoint(source) or source, planned[0].device
    runs = {name: load(source, name, device=device) for name in dict.fromkeys(s.weights for s in planned)}
    return [each.count * prepare_sampling(runs[each.weights], each).count_evaluations() for each in planned]


def _report_sum(progress: Progress, works: Sequence[int], k: int) -> Progress:
    """Return the progress callback of combination `k`; it reports the progress of the whole table.

    `works` has the number of network evaluations that each combination needs.
    """

    def report(what: str, done: float, total: int) -> None:
        if what == "samples":
            what, done, total = "network evaluations", sum(works[:k]) + works[k] * done / total, sum(works)
        progress(what, done, total)

    return report


def _find_evaluation(images: EvaluatedImages, extractor: Extractor) -> Evaluation | None:
    """Return the evaluation that `_search_evaluations` finds in process 0.

    Another process may not see the files of process 0, or may look for them later.
    """
    processes = current_processes()
    return processes.broadcast(_search_evaluations(images, extractor) if processes.leads else None)


def _search_evaluations(images: EvaluatedImages, extractor: Extractor) -> Evaluation | None:
    """Return the newest evaluation of the same samples against the same reference, or None."""
    features, reference = describe_reference(images.reference, extractor)
    wanted = images.sampling and _identity(parse_sampling(images.sampling), features, reference)
    for folder in reversed(list_numbered_folders(images.home, images.stem)):
        try:
            found = read_evaluation(folder)
        except UserError:  # damaged, of another version, or without a record
            continue
        same = found.sampling and _identity(found.sampling, found.features, found.reference) == wanted
        if same and load_features(found) is not None:
            return found
    return None


def _identity(sampling: SamplingRecord, features: Features, reference: ReferenceSet) -> str:
    """Return a text that is equal for evaluations with the same samples, features and reference images."""
    facts = [sample_conditions(sampling.record), sampling.seeds, asdict(features), reference.sha256]
    return json.dumps(facts, sort_keys=True)


def _arrange(
    combinations: Sequence[Choice], found: Sequence[Evaluation], metric: str
) -> tuple[TableCell, ...]:
    """Return the cells, row by row, with the differences from the first row of each column."""
    rows, steps = name_choices(combinations), [choice.get("steps") for choice in combinations]
    columns = [f"{count} steps" for count in steps] if len(set(steps)) > 1 else [""] * len(steps)
    if len(set(rows)) == 1:
        # Only the number of steps differs, so each number gets a row.
        rows, columns = columns, [""] * len(steps)
    if not any(columns):
        columns = [find_metric(metric).title] * len(columns)
    first: dict[str, Evaluation] = {}
    for column, each in zip(columns, found, strict=True):
        first.setdefault(column, each)
    cells = [
        TableCell(
            choice,
            row,
            column,
            each,
            None if each is first[column] else measure_difference(each, first[column], metric),
        )
        for choice, row, column, each in zip(combinations, rows, columns, found, strict=True)
    ]
    order = {name: k for k, name in enumerate(dict.fromkeys(rows))}
    return tuple(sorted(cells, key=lambda cell: order[cell.row]))


def _find_first_obstacle(cells: Sequence[TableCell], metric: str) -> Obstacle | None:
    """Return why the values of a table may not be compared, or None."""
    first, *others = (cell.evaluation for cell in cells)
    return next((found for other in others if (found := find_obstacle(first, other, metric))), None)


def _notes(cells: Sequence[TableCell], obstacle: Obstacle | None, *, saved: bool) -> list[str]:
    """Return sentences about numbers that are easily misread in a table.

    Args:
        cells: the cells of the table.
        obstacle: why the values may not be compared, or None.
        saved: whether guidance is that of `ddim search`, unless a choice of the cells sets it.
    """
    notes, columns = [], dict.fromkeys(cell.column for cell in cells)
    for column in columns:
        mine = [cell for cell in cells if cell.column == column]
        steps = {cell.choice.get("steps") for cell in mine}
        said = remark_on_nfe([cell.evaluation for cell in mine])
        if said and len(steps) == 1:
            notes.append((f"at {column}, " if len(columns) > 1 else "") + said)
    sampled = [sampling for cell in cells if (sampling := cell.evaluation.sampling)]
    grids = {sampling.grid["kind"] for sampling in sampled}
    if len(grids) > 1 and "listed" in grids and not any("grid" in cell.choice for cell in cells):
        notes.append(
            "some combinations use times that `ddim search` found, and others do not; --grid sets one for all"
        )
    guided = {sampling.guidance_name for sampling in sampled}
    if saved and guided != {""} and not any("guidance" in cell.choice for cell in cells):
        which, names = "some" if len(guided) > 1 else "all", "; ".join(sorted(guided - {""}))
        notes.append(
            f"{which} combinations use guidance that `ddim search` found ({names}); --guidance 1 turns it off"
        )
    if len(cells) > 2:
        notes.append(
            "each interval alone contains the true value in 95 % of cases; all of them together do so less "
            "often"
        )
    return notes + ([f"these values should not be ranked: {obstacle}"] if obstacle else [])
