"""The grids that `ddim search` found for a run: grids.json, keyed by sampler, steps and weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddim.diffusion.grids import Listed
from ddim.diffusion.samplers import Sampler
from ddim.errors import UserError
from ddim.files import read_sealed, write_sealed
from ddim.plots.table import Tabular
from ddim.recipe.codec import dump, load_value
from ddim.recipe.recipe import Recipe
from ddim.recipe.user_parts import is_user_part

FILE = "grids.json"


@dataclass(frozen=True, repr=False)
class SearchedGrid(Tabular):
    """The result of a search: decreasing times (N,) and their sampling error.

    `named` holds the errors of the other grids that were tried, keyed by name. `measure` is the name of the
    error: the mean squared error, or the KID for the sampler multistep.
    """

    times: tuple[float, ...]
    error: float
    named: dict[str, float]
    measure: str = "mean_squared_error"

    def to_records(self) -> list[dict[str, Any]]:
        """Return the error of the searched times and of each other grid."""
        errors = {"searched": self.error, **self.named}
        return [{"grid": name, self.measure: error} for name, error in errors.items()]

    @property
    def title(self) -> str:
        return f"times {', '.join(f'{t:.4g}' for t in self.times)}"


def list_changed(own: Recipe | None, now: Recipe, *fields: str) -> list[str]:
    """Return which of these fields of a run's recipe were changed since the run was loaded.

    Args:
        own: the recipe in the checkpoint; None if it is not known.
        now: the recipe of the pipeline.
        fields: names of fields.
    """
    return [name for name in fields if own and getattr(own, name) != getattr(now, name)]


def find_saved_grid(run: Path, sampler: Sampler, steps: int, weights: str) -> Listed | None:
    """Return the grid that a search saved for this sampler, number of steps and weights, or None."""
    entry = read_entries(run / FILE, _is_grid).get(sampling_key(sampler, steps, weights))
    return None if entry is None else Listed(tuple(entry["times"]))


def save_grid(run: Path, sampler: Sampler, steps: int, weights: str, found: SearchedGrid) -> None:
    """Save a grid in the run folder; `ddim sample` uses this grid if the user names no other grid.

    Args:
        run: the run folder.
        sampler: the sampler for which the grid was searched.
        steps: number of times in the grid.
        weights: the weights for which the grid was searched, such as "ema".
        found: the grid and its error.
    """
    entries = read_entries(run / FILE, _is_grid)
    entries[sampling_key(sampler, steps, weights)] = {
        "times": list(found.times),
        "error": found.error,
        # The error of a grid that diverged is infinite. JSON has no infinity, so it becomes null.
        "named": {name: e if math.isfinite(e) else None for name, e in found.named.items()},
    }
    write_sealed(run / FILE, entries)


def _is_grid(entry: dict[str, Any]) -> bool:
    times = entry.get("times")
    return isinstance(times, list) and all(isinstance(t, int | float) for t in times)


def read_entries(file: Path, is_valid: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the entries of a file in which `ddim search` saves its results; {} if there is no such file.

    Args:
        file: the file, whose entries are keyed by `sampling_key`.
        is_valid: returns whether an entry has the fields that it needs.

    Raises:
        UserError: if the file is damaged.
    """
    if not file.is_file():
        return {}
    entries = read_sealed(file)
    if not all(isinstance(entry, dict) and is_valid(entry) for entry in entries.values()):
        raise UserError(f"{file} was not written by ddim search or is damaged: remove it")
    return entries


def sampling_key(sampler: Sampler, steps: int, weights: str) -> str:
    """Return the key under which a search saves its result for this sampler, number of steps and weights."""
    fields = dump(sampler, named=True)
    if not is_user_part(sampler):
        # Equal samplers have the same key, whether a field is given as 0 or as 0.0.
        fields = dump(load_value(fields, Sampler, "sampler"), named=True)
    return " ".join([f"steps={steps}", f"weights={weights}", *(f"{k}={v}" for k, v in fields.items())])
