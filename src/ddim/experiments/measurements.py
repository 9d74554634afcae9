"""Read the newest memorisation test, the likelihoods and the newest diagnosis of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from ddim.errors import UserError, format_count
from ddim.evaluation.copies import format_share
from ddim.evaluation.record import WeightsIdentity, describe_verdict, identify_weights
from ddim.experiments.evaluations import is_last_step
from ddim.experiments.index import Run, find_newest_folder
from ddim.files import read_sealed
from ddim.metrics.statistics import Estimate
from ddim.runs.folder import list_numbered_folders

METHODS = (
    '"vlb" is the variational bound, and "ode" the density along the probability flow of dequantised images; '
    "both are upper bounds."
)
"""A sentence for reports that explains the methods of `ddim likelihood`."""

Kind = Literal["memorisation", "likelihoods"]
"""A kind of measurement that has a record; the name of its folder in the run folder."""


@dataclass(frozen=True)
class BitsConditions:
    """The conditions of a likelihood; two likelihoods are comparable only if their conditions are equal.

    `reference` is the fingerprint and the part of the images.
    """

    method: str
    images: int
    steps: int
    reference: tuple[str, str]
    variance: str | None
    weights: str

    def __str__(self) -> str:
        return f"{self.method}, {format_count(self.images, 'image')}, {format_count(self.steps, 'step')}"


@dataclass(frozen=True)
class Bits:
    """A likelihood: bits per dimension as text, conditions, step of the run, and time of measurement."""

    text: str
    conditions: BitsConditions
    step: int
    time: str


@dataclass(frozen=True)
class MeasuredWeights:
    """Weights of a run: their identity, their name and their training step."""

    identity: WeightsIdentity
    weights: str
    step: int


@dataclass(frozen=True)
class Measurements:
    """The results of a run other than its evaluations; "" or None stands for a result that does not exist.

    Attributes:
        copies: the share of samples that count as copies, with its 95 % confidence interval.
        verdict: the sentence of the memorisation test.
        tested: the weights of this test; None if the record does not say.
        bits: the likelihoods, oldest first.
        pairs: the PNG file with the samples that are closest to training images.
        diagnosis: the PNG file with the errors at each noise level.
        damaged: the records that cannot be read, keyed by the kind of measurement.
    """

    copies: str = ""
    verdict: str = ""
    tested: MeasuredWeights | None = None
    bits: tuple[Bits, ...] = ()
    pairs: Path | None = None
    diagnosis: Path | None = None
    damaged: Mapping[Kind, Sequence[Path]] = field(default_factory=dict)


def read_measurements(run: Path, weights: WeightsIdentity | None = None) -> Measurements:
    """Return the newest memorisation test and diagnosis in a run folder, and all its likelihoods.

    If `weights` are given and were tested, the memorisation test is the newest test of these weights.
    """
    damaged: dict[Kind, list[Path]] = {}
    T = TypeVar("T")

    def read(kind: Kind, folders: Iterable[Path], describe: Callable[[dict[str, Any]], T]) -> list[T]:
        found = []
        for folder in folders:
            try:
                found.append(describe(read_sealed(folder / "record.json")))
            except (UserError, KeyError, TypeError):
                damaged.setdefault(kind, []).append(folder / "record.json")
        return found

    folders = list_numbered_folders(run / "memorisation")
    tests = read("memorisation", folders if weights else folders[-1:], _describe_memorisation)
    own = [test for test in tests if test[2] is not None and test[2].identity == weights]
    copies = (own or tests)[-1:]
    bits = read("likelihoods", list_numbered_folders(run / "likelihoods"), _describe_bits)
    return Measurements(
        *(copies[0] if copies else ("", "", None)),
        bits=tuple(bits),
        pairs=_picture(run, "memorisation", "pairs.png"),
        diagnosis=_picture(run, "diagnostics", "figure.png"),
        damaged=damaged,
    )


def common_bits_conditions(found: Iterable[tuple[Run, Sequence[Bits]]]) -> BitsConditions | None:
    """Return the conditions under which the likelihoods of most runs were measured; None without likelihoods.

    If several conditions are equally common, those with the most images are preferred, then those with the
    newest likelihood.
    """
    counts: Counter[BitsConditions] = Counter()
    newest: dict[BitsConditions, str] = {}
    for run, bits in found:
        own = {each.conditions: each.time for each in bits if is_last_step(run, each.step)}
        counts.update(own.keys())
        newest |= {each: max(time, newest.get(each, time)) for each, time in own.items()}
    return max(counts, key=lambda each: (counts[each], each.images, newest[each]), default=None)


def format_run_bits(run: Run, found: Sequence[Bits], common: BitsConditions | None) -> tuple[str, str]:
    """Return one likelihood of a run as text, and the reason why it is not comparable ("" if it is).

    Args:
        run: the run.
        found: its likelihoods, oldest first. The newest one under the common conditions is chosen. If there
            is none, the newest one is chosen and marked with "*".
        common: the common conditions.
    """
    if not found:
        return "", ""
    valid = [bits for bits in found if is_last_step(run, bits.step)]
    comparable = [bits for bits in valid if bits.conditions == common]
    bits = (comparable or valid or found)[-1]
    text = f"{bits.text} ({bits.conditions})"
    if comparable:
        return text, ""
    if not valid:
        return f"{text}*", f"it was measured at an earlier step, {bits.step:,}"
    if str(bits.conditions) == str(common):
        return f"{text}*", "it was measured with other images, weights or variances"
    return f"{text}*", f"most runs were measured with {common}"


def _describe_memorisation(record: dict[str, Any]) -> tuple[str, str, MeasuredWeights | None]:
    value, low, high = (np.asarray(record["copies"][name]) for name in ("value", "low", "high"))
    share = Estimate(value, low, high)
    own = identify_weights(record)
    tested = MeasuredWeights(own, record["weights"], record["step"]) if own else None
    return format_share(share), describe_verdict(record), tested


def _describe_bits(record: dict[str, Any]) -> Bits:
    bits = record["bits"]
    error = "" if bits["error"] is None else f" ± {bits['error']:.3f}"
    reference = record["reference"]
    conditions = BitsConditions(
        record["method"],
        len(reference["images"]),
        record["steps"],
        (reference["fingerprint"], reference["part"]),
        record["variance"],
        record["weights"],
    )
    return Bits(f"{bits['value']:.3f}{error}", conditions, record["step"], str(record["time"]))


def _picture(run: Path, kind: str, name: str) -> Path | None:
    """Return the file `name` in the newest folder of a kind of measurement, or None."""
    newest = find_newest_folder(run / kind)
    return newest / name if newest is not None and (newest / name).is_file() else None
