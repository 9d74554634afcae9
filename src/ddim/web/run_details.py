"""Describe one run for its page: checkpoints, pictures, evaluations, curves and log."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddim.errors import UserError
from ddim.evaluation.record import name_recorded_guidance
from ddim.experiments.index import Run
from ddim.files import SEAL, read_sealed
from ddim.recipe.options import ERRORS
from ddim.runs.folder import REAL_IMAGES, list_checkpoints, list_numbered_folders, list_sheets
from ddim.runs.log import METRICS, read_metrics
from ddim.web.answers import Refused
from ddim.web.rows import Interval, api_address, list_intervals, show_text

POINTS = 2000
"""The largest number of points of a curve; longer curves are thinned."""
LINES = 200
"""The number of lines of the log that the page shows."""
PAIRS = "pairs.png"
"""The picture of a memorisation test: the samples that are closest to training images."""
_LINE_BYTES = 16 * 2**10


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a run."""

    step: int
    images: int
    name: str


@dataclass(frozen=True)
class Sheet:
    """A sheet of samples, and the training step at which it was made."""

    step: int
    images: int
    url: str


@dataclass(frozen=True)
class NamedFile:
    """A file with its address."""

    name: str
    url: str


@dataclass(frozen=True)
class Evaluated:
    """An evaluation of a run."""

    name: str
    when: str
    conditions: str
    nfe: int | None
    metrics: dict[str, Interval]
    comparable: bool


@dataclass(frozen=True)
class Memorised:
    """The newest memorisation test of a run."""

    sentence: str
    copies: int | None
    n: int | None
    pairs_url: str | None


@dataclass(frozen=True)
class Column:
    """One number of the vectors of a run: its name, and its range among the training images."""

    name: str
    low: float | None
    high: float | None


@dataclass(frozen=True)
class KidPoint:
    """The KID that a training measured after `images` training images."""

    images: int
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class NoiseErrors:
    """The errors of the latest validations at each log-SNR.

    `values` has one list for each validation, oldest first. The list has one error for each log-SNR in
    `labels`, or null if the validation has no value there.
    """

    labels: list[str] = field(default_factory=list)
    values: list[list[float | None]] = field(default_factory=list)


@dataclass(frozen=True)
class Curves:
    """The curves of a training.

    `images`, `loss` and each list in `errors` have one entry for each line that `read_curves` takes from the
    log; null means no value. `kid` has one entry for each KID in the log.
    """

    images: list[int]
    loss: list[float | None]
    errors: dict[str, list[float | None]]
    noise: NoiseErrors
    kid: list[KidPoint]


@dataclass(frozen=True)
class Log:
    """The last lines of the log."""

    lines: list[str]


def describe_checkpoints(run: Run) -> list[Checkpoint]:
    """Return the checkpoints of a run, oldest first."""
    batch = int(run.recipe["optim"]["batch"])
    return [Checkpoint(step, step * batch, path.name) for step, path in list_checkpoints(run.path)]


def describe_sheets(own: str, run: Run) -> list[Sheet]:
    """Return the sheets of samples of a run with the id `own`, oldest first."""
    batch = int(run.recipe["optim"]["batch"])
    return [
        Sheet(step, step * batch, api_address("runs", own, "sheets", step))
        for step, _ in list_sheets(run.path)
    ]


def list_films(own: str, run: Run) -> list[NamedFile]:
    """Return the name and address of each film of the run with the id `own`."""
    return [
        NamedFile(name, api_address("runs", own, "films", name)) for name in sorted(_film_files(run.path))
    ]


def _film_files(path: Path) -> dict[str, Path]:
    return {
        file.name: file for file in (path / "samples").glob("*.webp") if re.fullmatch(r"[\w.-]+", file.name)
    }


def describe_evaluations(run: Run, common: Run | None) -> list[Evaluated]:
    """Return the evaluations of a run, oldest first.

    Args:
        run: the run with all its evaluations.
        common: the run with one evaluation, as `mark_comparable` returns it; None if it has none.
    """
    chosen = common.evaluations[-1] if common and common.comparable else None
    return [
        Evaluated(
            show_text(each.name),
            each.record["time"],
            show_text(each.conditions),
            each.nfe,
            list_intervals(each),
            each is chosen,
        )
        for each in run.evaluations
    ]


def list_columns(facts: Mapping[str, Any]) -> list[Column]:
    """Return the columns of the vectors of a run, from its run.json; [] for a run without vectors."""
    vectors = (facts.get("data") or {}).get("vectors") or {}
    names = [show_text(str(name)) for name in vectors.get("columns") or ()]
    ends = [vectors.get(end) or [None] * len(names) for end in ("low", "high")]
    return [Column(*each) for each in zip(names, *ends, strict=True)]


def describe_memorisation(own: str, run: Path) -> Memorised | None:
    """Return the newest memorisation test of a run, or None if the run has no test.

    If the record of the test is damaged, the returned sentence says so.
    """
    tests = list_numbered_folders(run / "memorisation")
    if not tests:
        return None
    newest = tests[-1]
    try:
        record = read_sealed(newest / "record.json")
        verdict, copies = str(record["verdict"]), record["copies"]
        if guidance := name_recorded_guidance(record["sampling"]):
            verdict += f" Samples: {guidance}."
        count, of = int(copies["count"]), int(copies["of"])
        if record.get("checkpoint"):
            verdict += f" Tested: the {record['weights']} weights at step {int(record['step']):,}."
    except (UserError, TypeError, ValueError, LookupError, OverflowError):
        return Memorised(f"the record of memorisation test {newest.name} is damaged", None, None, None)
    url = api_address("runs", own, "pairs") if (newest / PAIRS).is_file() else None
    return Memorised(show_text(verdict), count, of, url)


def read_curves(run: Path) -> Curves:
    """Return the curves of a training; the losses and errors have at most `POINTS` points."""
    own = (run / METRICS).is_file()
    lines = read_metrics(run) if own else []
    lines = [line for line in lines if isinstance(line.get("images"), int)]
    kid = [
        KidPoint(line["images"], line["kid"], line.get("kid_low"), line.get("kid_high"))
        for line in lines
        if _is_number(line.get("kid"))
    ]
    judged = [line for line in lines if any(_is_number(line.get(name)) for name in ERRORS)]
    kept = _thin(lines, judged)
    errors = {name: [_value(line, name) for line in kept] for name in ERRORS}
    images = [line["images"] for line in kept]
    return Curves(images, [_value(line, "loss") for line in kept], errors, _noise_errors(judged), kid)


def _thin(lines: Sequence[Mapping[str, Any]], judged: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return at most `POINTS` lines, evenly spread; lines with validations are preferred."""
    if len(lines) <= POINTS:
        return list(lines)
    judged = judged[:: math.ceil(len(judged) / (POINTS // 2))] if judged else []
    wanted = {id(line) for line in judged}
    others = [line for line in lines if id(line) not in wanted]
    wanted |= {id(line) for line in others[:: math.ceil(len(others) / (POINTS - len(judged)))]}
    return [line for line in lines if id(line) in wanted]


def _noise_errors(judged: Sequence[Mapping[str, Any]]) -> NoiseErrors:
    """Return the validation errors at each log-SNR, from at most the last 50 validations."""
    names = [name for name in (judged[-1] if judged else {}) if name.startswith("noise_mae/log_snr_")]
    values = [[_value(line, name) for name in names] for line in judged[-50:]]
    return NoiseErrors([name.removeprefix("noise_mae/log_snr_") for name in names], values)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _value(line: Mapping[str, Any], name: str) -> float | None:
    value = line.get(name)
    return float(value) if isinstance(value, int | float) else None


def read_log(run: Path) -> Log:
    """Return the last lines of the log of a run, without the checksum in each line."""
    if not (run / METRICS).is_file():
        return Log([])
    try:
        with (run / METRICS).open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(0, end - LINES * _LINE_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return Log([])
    shown = (line[:_LINE_BYTES].decode("utf-8", "replace") for line in lines[-LINES:])
    return Log([re.sub(rf'"{SEAL}": "\w*", ', "", line, count=1) for line in shown])


def find_picture(run: Path, kind: str, name: str) -> Path:
    """Return the path of a picture of a run. The file lies inside the run folder.

    Args:
        run: the run folder.
        kind: "sheets", "films", "real" (real images) or "pairs" (samples beside their nearest training
            images).
        name: the step of a sheet or the name of a film; "" for the other kinds.

    Raises:
        Refused: if there is no such picture.
    """
    found: Path | None = None
    if kind == "sheets":
        found = {str(step): path for step, path in list_sheets(run)}.get(name)
    elif kind == "films":
        found = _film_files(run).get(name)
    elif kind == "real":
        found = run / REAL_IMAGES
    elif kind == "pairs":
        tests = list_numbered_folders(run / "memorisation")
        found = tests[-1] / PAIRS if tests else None
    if found is None or not found.is_file():
        raise Refused(404, "there is no such picture")
    return found


def sheet_layout(run: Run) -> tuple[int, list[int]]:
    """Return the number of columns of the sheets of a run, and the height and width of one image in pixels.

    Sheets are enlarged by a whole number, see `ddim.plots.pictures.enlarge`.
    """
    columns = math.ceil(math.sqrt(int(run.recipe["report"]["grid"])))
    return columns, [int(side) for side in run.recipe["data"]["size"]]
