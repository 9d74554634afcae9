"""Read the newest memorisation test, likelihood and diagnosis of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddim.errors import UserError
from ddim.evaluation.copies import format_share
from ddim.files import read_json
from ddim.metrics.statistics import Estimate
from ddim.runs.folder import list_numbered_folders


@dataclass(frozen=True)
class Measurements:
    """The results of a run other than its evaluations; "" or None stands for a result that does not exist.

    Attributes:
        copies: the share of samples that count as copies, with its 95 % confidence interval.
        verdict: the sentence of the memorisation test.
        bits: bits per dimension with their standard error.
        pairs: the PNG file with the samples that are closest to training images.
        diagnosis: the PNG file with the errors at each noise level.
        damaged: the records that cannot be read.
    """

    copies: str = ""
    verdict: str = ""
    bits: str = ""
    pairs: Path | None = None
    diagnosis: Path | None = None
    damaged: tuple[str, ...] = ()


def read_measurements(run: Path) -> Measurements:
    """Return the newest measurements in a run folder."""
    damaged: list[str] = []

    def read(kind: str, describe: Callable[[dict[str, Any]], dict[str, str]]) -> dict[str, str]:
        folder = _newest(run / kind)
        if folder is None:
            return {}
        try:
            return describe(read_json(folder / "record.json"))
        except (UserError, KeyError, TypeError):
            damaged.append(f"{kind}/{folder.name}/record.json")
            return {}

    described = read("memorisation", _describe_memorisation) | read("likelihoods", _describe_bits)
    return Measurements(
        **described,
        pairs=_picture(run / "memorisation", "pairs.png"),
        diagnosis=_picture(run / "diagnostics", "figure.png"),
        damaged=tuple(damaged),
    )


def _describe_memorisation(record: dict[str, Any]) -> dict[str, str]:
    share = Estimate(*(np.asarray(record["copies"][name]) for name in ("value", "low", "high")))
    return {"copies": format_share(share), "verdict": str(record["verdict"])}


def _describe_bits(record: dict[str, Any]) -> dict[str, str]:
    bits = record["bits"]
    error = "" if bits["error"] is None else f" ± {bits['error']:.3f}"
    return {"bits": f"{bits['value']:.3f}{error}"}


def _newest(folder: Path) -> Path | None:
    """Return the newest numbered folder in `folder`, or None."""
    return next(reversed(list_numbered_folders(folder)), None)


def _picture(folder: Path, name: str) -> Path | None:
    newest = _newest(folder)
    return newest / name if newest is not None and (newest / name).is_file() else None
