"""Which evaluation of each run counts, so that their numbers compare. Needs no torch.

The common conditions are those under which most runs were evaluated. A run counts with its newest evaluation
under these; `ddim.evaluation.conditions` decides which conditions are equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ddim.evaluation.conditions import Conditions, Mismatch, ReferenceSet, evaluation_conditions
from ddim.experiments.index import Run

Record = Mapping[str, Any]


def represents_run(run: Run, record: Record) -> bool:
    """Return whether an evaluation represents a run; False for an earlier step of a finished run."""
    sampling = record.get("sampling")
    if not sampling or run.state != "finished":
        return True
    return sampling["step"] * run.recipe["optim"]["batch"] >= run.images


def common_conditions(found: Iterable[Run]) -> Conditions | None:
    """Return the conditions under which most runs were evaluated; None if no run was.

    Among equally common conditions, more samples are preferred, then the newest evaluation.
    """
    counts: Counter[Conditions] = Counter()
    newest: dict[Conditions, tuple[str, int]] = {}
    for run in found:
        own = {}
        for place, record in enumerate(run.records):
            if represents_run(run, record):
                own[evaluation_conditions(record, run.recipe)] = str(record.get("time")), place
        counts.update(own.keys())
        newest |= {each: max(when, newest.get(each, when)) for each, when in own.items()}
    return max(counts, key=lambda each: (counts[each], each.images, newest[each]), default=None)


def newest_record(run: Run, conditions: Conditions | None = None) -> Record | None:
    """Return the record of a run's newest evaluation under these conditions, or under any; else None."""
    for record in reversed(run.records):
        if represents_run(run, record) and conditions in (None, evaluation_conditions(record, run.recipe)):
            return record
    return None


def keep_comparable(found: Sequence[Run]) -> list[Run]:
    """Return the runs with one evaluation each, under the common conditions; `why` explains a missing one."""
    common = common_conditions(found)

    def kept(run: Run) -> Run:
        record = newest_record(run, common) if common else None
        if record is not None:
            return replace(run, records=(record,))
        if not run.records:
            return run
        newest = newest_record(run)
        reason = "of an earlier step"
        if common and newest:
            reason = describe_mismatches(evaluation_conditions(newest, run.recipe).mismatches(common))
        why = run.why or f"its evaluations do not compare with those of most runs: {reason}"
        return replace(run, records=(), why=why)

    return [kept(run) for run in found]


def describe_mismatches(mismatches: Iterable[Mismatch]) -> str:
    """Describe in what the conditions of an evaluation differ from the common ones, with its own values."""
    return ", ".join(f"different {each.aspect.value} ({_describe(each.one)})" for each in mismatches)


def _describe(value: object) -> str:
    """Return a value without paths: reports are shown to others."""
    return value.description if isinstance(value, ReferenceSet) else str(value)
