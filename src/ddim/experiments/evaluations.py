"""Select one evaluation of each run, so that the numbers of all runs are comparable.

This module does not import torch.

The common conditions are those under which most runs were evaluated. For each run, its newest evaluation
under the common conditions is selected. `ddim.evaluation.conditions` decides which conditions are equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ddim.evaluation.conditions import Conditions, Mismatch, Sampling, evaluation_conditions
from ddim.evaluation.record import Evaluation, ReferenceSet
from ddim.experiments.index import Run
from ddim.metrics.catalogue import DEFAULT


def represents_run(run: Run, evaluation: Evaluation) -> bool:
    """Return whether an evaluation counts for a run.

    If the run is finished, an evaluation counts only if it was made at the last step. Every evaluation counts
    if the run is not finished, or if the evaluation does not say how its images were sampled.
    """
    return evaluation.sampling is None or is_last_step(run, evaluation.sampling.step)


def is_last_step(run: Run, step: int) -> bool:
    """Return whether a step is the last step of a finished run; True for every step of other runs."""
    return run.state != "finished" or step * run.recipe["optim"]["batch"] >= run.images


def is_plain(run: Run, evaluation: Evaluation) -> bool:
    """Return whether an evaluation is as sweeps and plans expect it.

    It has the default features, compares with validation images, and samples as the recipe says: without
    guidance, and all class folders in turn.
    """
    label = "all" if run.recipe["data"].get("labels") is True else None
    plain = Sampling(run.recipe["steps"], "ema", label, guidance=1.0, changes=())
    sampled = evaluation_conditions(evaluation, run.recipe).sampling == plain
    return sampled and evaluation.features.extractor == DEFAULT and evaluation.reference.part in ("valid", "all")


def common_conditions(found: Iterable[Run]) -> Conditions | None:
    """Return the conditions under which most runs were evaluated; None if no run was evaluated.

    If several conditions are equally common, those with the most samples are preferred, then those with the
    newest evaluation.
    """
    counts: Counter[Conditions] = Counter()
    newest: dict[Conditions, tuple[str, int]] = {}
    for run in found:
        own = {}
        for place, each in enumerate(run.evaluations):
            if represents_run(run, each):
                own[evaluation_conditions(each, run.recipe)] = each.time, place
        counts.update(own.keys())
        newest |= {each: max(when, newest.get(each, when)) for each, when in own.items()}
    return max(counts, key=lambda each: (counts[each], each.images, newest[each]), default=None)


def newest_evaluation(run: Run, conditions: Conditions | None = None) -> Evaluation | None:
    """Return the newest evaluation of a run for which `represents_run` is true, or None if there is none.

    If `conditions` is given, only evaluations under these conditions are searched.
    """
    for each in reversed(run.evaluations):
        if represents_run(run, each) and conditions in (None, evaluation_conditions(each, run.recipe)):
            return each
    return None


def mark_comparable(found: Sequence[Run]) -> list[Run]:
    """Return copies of the runs with one evaluation each: the newest comparable one, else the newest one.

    A run that has evaluations, but no comparable one, is marked as not comparable. If its `why` is empty, it
    is replaced by the reason.
    """
    common = common_conditions(found)

    def marked(run: Run) -> Run:
        comparable = newest_evaluation(run, common) if common else None
        if comparable is not None:
            return replace(run, evaluations=(comparable,))
        if not run.evaluations:
            return run
        newest = newest_evaluation(run)
        reason = "of an earlier step"
        if common and newest:
            reason = describe_mismatches(evaluation_conditions(newest, run.recipe).mismatches(common))
        why = run.why or f"its metrics are not comparable with the metrics of most runs: {reason}"
        return replace(run, evaluations=(newest or run.evaluations[-1],), why=why, comparable=False)

    return [marked(run) for run in found]


def describe_mismatches(mismatches: Iterable[Mismatch]) -> str:
    """Return a text with the conditions in which an evaluation differs from most others, and their values."""
    return ", ".join(f"different {each.aspect} ({_describe(each.one)})" for each in mismatches)


def _describe(value: object) -> str:
    """Return a value as text without paths, because reports may be shown to other people."""
    return value.description if isinstance(value, ReferenceSet) else str(value)
