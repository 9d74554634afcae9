"""Select one evaluation of each run, so that the metrics of runs on the same images are comparable.

This module does not import torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ddim.evaluation.conditions import Conditions, evaluation_conditions
from ddim.evaluation.record import Evaluation, ReferenceSet
from ddim.experiments.index import Run


def represents_run(run: Run, evaluation: Evaluation) -> bool:
    """Return whether an evaluation counts for a run: for a finished run, one of its last step.

    An evaluation that does not say how its images were sampled counts.
    """
    if run.state != "finished" or evaluation.sampling is None:
        return True
    return evaluation.sampling.step * run.recipe["optim"]["batch"] >= run.images


def training_images(run: Run) -> str:
    """Return the fingerprint of the training images of a run, else their source, size and channels."""
    data = run.recipe.get("data", {})
    known = run.facts.get("data", {}).get("fingerprint")
    return known or str([data.get(name) for name in ("source", "size", "channels")])


def mark_comparable(runs: Sequence[Run]) -> list[Run]:
    """Return copies of the runs with one evaluation each: the newest comparable one, else the newest one.

    An evaluation is comparable if it was made under the conditions under which most runs on the same images
    were evaluated. A run that has evaluations, but no comparable one, is marked as not comparable; its `why`
    gives the reason unless it is taken.
    """
    groups = defaultdict[str, list[Run]](list)
    for run in runs:
        groups[training_images(run)].append(run)
    common = {images: common_conditions(group) for images, group in groups.items()}
    return [_mark_run(run, common[training_images(run)]) for run in runs]


def common_conditions(runs: Iterable[Run]) -> Conditions | None:
    """Return the conditions under which most runs were evaluated; None if no run was evaluated.

    If several conditions are equally common, those with the most samples are preferred, then those with the
    newest evaluation.
    """
    times = defaultdict[Conditions, dict[Path, str]](dict)
    for run in runs:
        for each in filter(partial(represents_run, run), run.evaluations):
            times[evaluation_conditions(each, run.recipe)][run.path] = each.time
    return max(
        times, key=lambda each: (len(times[each]), each.images, max(times[each].values())), default=None
    )


def _mark_run(run: Run, common: Conditions | None) -> Run:
    counted = [each for each in run.evaluations if represents_run(run, each)]
    comparable = [each for each in counted if evaluation_conditions(each, run.recipe) == common]
    if comparable or not run.evaluations:
        return replace(run, evaluations=comparable[-1:])
    shown, reason = (counted or run.evaluations)[-1], "of an earlier step"
    if counted and common:
        mismatches = evaluation_conditions(shown, run.recipe).mismatches(common)
        reason = ", ".join(f"different {each.aspect} ({_describe(each.one)})" for each in mismatches)
    why = run.why or f"its metrics are not comparable with those of most runs on these images: {reason}"
    return replace(run, evaluations=(shown,), why=why, comparable=False)


def _describe(value: object) -> str:
    """Return a value as text without paths, because reports may be shown to other people."""
    return value.description if isinstance(value, ReferenceSet) else str(value)
