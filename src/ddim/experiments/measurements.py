"""Read the memorisation test of the weights of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ddim.errors import UserError
from ddim.evaluation.record import WeightsIdentity, describe_verdict, identify_weights
from ddim.files import read_sealed
from ddim.runs.folder import list_numbered_folders


@dataclass(frozen=True)
class MeasuredWeights:
    """Weights of a run: their identity, their name and their training step."""

    identity: WeightsIdentity
    weights: str
    step: int


@dataclass(frozen=True)
class Measurements:
    """The newest memorisation test of a run.

    Attributes:
        verdict: the sentence of the test, "" without a test.
        tested: the weights of this test; None if the record does not say.
        damaged: the records that cannot be read, keyed by the kind of measurement.
    """

    verdict: str = ""
    tested: MeasuredWeights | None = None
    damaged: Mapping[Literal["memorisation"], Sequence[Path]] = field(default_factory=dict)


def read_measurements(run: Path, weights: WeightsIdentity) -> Measurements:
    """Return the newest memorisation test of these weights, else the newest test of the run."""
    tests, damaged = [], []
    for folder in list_numbered_folders(run / "memorisation"):
        try:
            record = read_sealed(folder / "record.json")
            own = identify_weights(record)
            tested = MeasuredWeights(own, record["weights"], record["step"]) if own else None
            tests.append((describe_verdict(record), tested))
        except (UserError, KeyError, TypeError):
            damaged.append(folder / "record.json")
    own_tests = [test for test in tests if test[1] is not None and test[1].identity == weights]
    verdict, tested = (own_tests or tests or [("", None)])[-1]
    return Measurements(verdict, tested, {"memorisation": damaged} if damaged else {})
