"""Build the tables of a report: the results of configurations, the fields that differ, and the runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ddim.evaluation.compare import remark_on_nfe
from ddim.evaluation.conditions import Conditions, error_conditions
from ddim.evaluation.record import Evaluation
from ddim.experiments.evaluations import describe_mismatches, newest_evaluation
from ddim.experiments.index import Run
from ddim.experiments.summary import (
    METRICS,
    MISSING,
    Configuration,
    Spread,
    earlier_evaluations,
    other_conditions,
    summarise_metrics,
    value_of_run,
)
from ddim.metrics.catalogue import find_metric
from ddim.plots.page import Block, Folded
from ddim.plots.table import Table
from ddim.recipe.options import ERRORS


def format_spread(number: Spread) -> str:
    """Return a mean as text, with its standard deviation over repeats or its 95 % confidence interval."""
    # Fewer digits are significant in large numbers, such as a FID of several hundred.
    digits = 4 if abs(number.mean) < 10 else 2
    if number.deviation is not None:
        return f"{number.mean:.{digits}f} ± {number.deviation:.{digits}f}"
    if number.interval is not None:
        return f"{number.mean:.{digits}f} [{number.interval[0]:.{digits}f}, {number.interval[1]:.{digits}f}]"
    return f"{number.mean:.{digits}f}"


def differing_fields_table(rows: Sequence[Configuration]) -> list[Block]:
    """Return a folded table of the fields that differ between configurations."""
    if not rows[0].choice:
        return []
    heads = ["name", *rows[0].choice]
    lines = [[row.name, *row.choice.values()] for row in rows]
    return [Folded("Fields of the recipes that differ", [Table(heads, lines)])]


def results_table(rows: Sequence[Configuration], common: Conditions | None) -> Table:
    """Return the table of results: a row for each configuration, a column for each metric, and notes."""
    found = [summarise_metrics(row, common) for row in rows]
    earlier = [each for row in rows for _, each in earlier_evaluations(row)]
    metrics = [
        name
        for name in METRICS
        if any(name in numbers for numbers in found) or any(name in each.metrics for each in earlier)
    ]
    winners = [_best_row(name, rows, found, common) for name in metrics]
    best = {(row, 1 + k) for k, row in enumerate(winners) if row is not None}
    lines = []
    for row, numbers in zip(rows, found, strict=True):
        texts = [
            format_spread(numbers[name]) if name in numbers else _absent_text(row, common, name)
            for name in metrics
        ]
        finished = sum(run.state == "finished" for run in row.runs)
        lines.append([row.name, *texts, f"{finished} of {len(row.runs)}"])
    titles = [f"{METRICS[name].title} {'↓' if METRICS[name].lower_is_better else '↑'}" for name in metrics]
    notes = [*_notes(rows, common, metrics), *_partial_numbers(rows, found)]
    fields = list(rows[0].choice)
    # The names of many fields would make the column wider than its values, so the heading is then "name".
    head = ", ".join(fields or ["recipe"]) if len(fields) <= 3 else "name"
    return Table([head, *titles, "finished"], lines, notes, words=1, best=best)


def _best_row(
    name: str,
    rows: Sequence[Configuration],
    found: Sequence[Mapping[str, Spread]],
    common: Conditions | None,
) -> int | None:
    """Return the index of the row with the best mean of a metric, among rows whose runs are finished.

    Return None if fewer than two rows can be ranked, the two best means are equal, the numbers of the rows
    are not comparable, or there are too few images to rank by this metric.
    """
    if len(data_fingerprints(rows)) > 1 or (name in ERRORS and len(_error_conditions(rows)) > 1):
        return None
    if common is not None and common.shortage(name):
        return None
    finished = [all(run.state == "finished" for run in row.counted) for row in rows]
    known = [k for k, numbers in enumerate(found) if name in numbers and finished[k]]
    order = sorted(known, key=lambda k: found[k][name].mean, reverse=not METRICS[name].lower_is_better)
    if len(order) < 2 or found[order[0]][name].mean == found[order[1]][name].mean:
        return None
    return order[0]


def _absent_text(row: Configuration, common: Conditions | None, name: str) -> str:
    """Return the text for a cell whose number is missing or not comparable.

    If runs were evaluated only at an earlier step, the text is the values of that step, marked with "*".
    """
    earlier = [each.metrics.get(name) for _, each in earlier_evaluations(row)]
    values = [format_spread(Spread(found.value, 1)) for found in earlier if found]
    if values:
        return ", ".join(f"{value}*" for value in values)
    differs = common is not None and name not in ERRORS and other_conditions(row, common)
    return "not comparable" if differs else MISSING


def _notes(rows: Sequence[Configuration], common: Conditions | None, metrics: Sequence[str]) -> list[str]:
    """Return the notes below the table of results."""
    notes = ["↓ lower is better; ↑ higher is better."]
    if any(name in ERRORS for name in metrics):
        notes.append(
            "Image MAE and noise MAE are mean absolute errors on validation images with noise: of the "
            "predicted clean image, and of the predicted noise."
        )
    if any(len(row.counted) > 1 for row in rows):
        notes.append("± is the standard deviation over repeats, which differ only in their seed.")
    notes += _unequal_images(rows)
    duplicates = [run.path.name for row in rows for run in row.duplicates]
    if duplicates:
        notes.append(f"Not counted, as another run has the same recipe and seed: {', '.join(duplicates)}.")
    notes += [
        f"* {run.path.name}: not comparable, because its newest evaluation is of an earlier step "
        f"({each.sampling.step:,}). Evaluate the run again."
        for row in rows
        for run, each in earlier_evaluations(row)
        if each.sampling
    ]
    if common is not None:
        notes.append(
            f"KID, FID and similar metrics compare {common.images:,} samples of each run with "
            f"{common.reference.description}, by features of {common.measure}. [ ] is the 95 % confidence "
            "interval of the metric of one run; it leaves out the variation between runs with other seeds."
        )
        notes += _sampling(rows, common)
        notes += _few_images(rows, common)
        unranked = [METRICS[name].title for name in metrics if common.shortage(name)]
        if unranked:
            notes.append(f"Too few images to rank by {', '.join(unranked)}.")
        for row in rows:
            for other in other_conditions(row, common):
                text = describe_mismatches(other.mismatches(common))
                notes.append(f"Not comparable: {row.name}, evaluated with {text}.")
    if len(_error_conditions(rows)) > 1:
        notes.append(
            "Schedules, pixels or validation images differ. They define what an MAE measures and its unit: "
            "compare MAEs only if all three are the same."
        )
    if len(data_fingerprints(rows)) > 1:
        notes.append("Data differ: numbers of runs with different images are not comparable.")
    if any(run.state != "finished" for row in rows for run in row.counted):
        notes.append("For a configuration without a finished run, the numbers are the latest so far.")
    return notes


def _sampling(rows: Sequence[Configuration], common: Conditions) -> Iterator[str]:
    """Yield how the evaluated samples were sampled, and a note if their NFE differ."""
    named: dict[str, Evaluation] = {}
    for run in (run for row in rows for run in row.counted):
        if evaluation := newest_evaluation(run, common):
            named[evaluation.name] = evaluation
    if said := remark_on_nfe(list(named.values())):
        yield f"{said[0].upper()}{said[1:]}."
    elif common.sampling is not None:
        yield f"Sampling: {'; '.join(named)}."


def _few_images(rows: Sequence[Configuration], common: Conditions) -> Iterator[str]:
    """Yield notes that precision and density say little: with few images, or for runs whose recall is 0."""
    few = min(common.images, common.reference.images)
    if few < find_metric("precision").least:
        yield f"With so few images ({few}), FID, precision and density say little."
    values = ((run, value_of_run(run, "recall", common)) for row in rows for run in row.counted)
    names = [run.path.name for run, found in values if found and not found[0]]
    if names:
        yield f"Recall is 0 for {', '.join(names)}: there, precision and density say little."


def _unequal_images(rows: Sequence[Configuration]) -> Iterator[str]:
    """Yield a note for repeats that saw unequal numbers of images, such as runs with a budget in minutes."""
    for row in rows:
        seen = sorted(run.images for run in row.counted)
        if seen[0] < seen[-1]:
            yield (
                f"The repeats of {row.name} saw different numbers of images: {seen[0]:,} to {seen[-1]:,}. "
                "The deviation includes this difference."
            )


def _partial_numbers(rows: Sequence[Configuration], found: Sequence[Mapping[str, Spread]]) -> Iterator[str]:
    """Yield a note for each configuration with metrics that only some of its counted runs have."""
    for row, numbers in zip(rows, found, strict=True):
        total = len(row.counted)
        for n in range(1, total):
            names = [METRICS[name].title for name, number in numbers.items() if number.n == n]
            if names:
                yield f"{row.name}: only {n} of its {total} runs have {', '.join(names)}."


def _error_conditions(rows: Sequence[Configuration]) -> set[Conditions]:
    """Return the different conditions of the runs' denoising errors.

    If the images of a run are not known, they count as equal to the images of another run.
    """
    known = data_fingerprints(rows)
    default = next(iter(known), "")
    found = ((run.recipe, run.facts.get("data", {})) for row in rows for run in row.runs)
    return {error_conditions(recipe, data.get("fingerprint", default)) for recipe, data in found}


def data_fingerprints(rows: Sequence[Configuration]) -> set[str]:
    """Return the fingerprints of the images that the runs were trained on."""
    return {run.facts["data"]["fingerprint"] for row in rows for run in row.runs if "data" in run.facts}


def runs_table(found: Sequence[Run]) -> Table:
    """Return the table of runs with their state, seed and progress, and with notes on problems."""
    lines = []
    for run in found:
        progress = f"{run.images:,}" + (f" of {run.total:,}" if run.total else "")
        seed = run.recipe.get("seed")
        lines.append([run.path.name, run.state, str(seed), progress])
    why = [f"{run.path.name}: {run.why}" for run in found if run.why]
    return Table(("run", "state", "seed", "images seen"), lines, why, words=2)
