"""The file RUN/searched.json: the grids and the guidance that `ddim search` found for a run.

Each entry names the sampler, the number of steps and the weights for which it was found. The sampler is named
by its kind and by those of its fields that are not defaults. So a field that a later version adds to a
sampler changes no name.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from ddim.diffusion.grids import Listed
from ddim.diffusion.samplers import Sampler
from ddim.files import read_sealed, write_sealed
from ddim.recipe.codec import describe_kind

FILE = "searched.json"


def read_searched(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the entries that searches saved in a run folder, in two lists: "grids" and "guidance".

    Raises:
        UserError: if the file is damaged.
    """
    return read_sealed(run / FILE) if (run / FILE).is_file() else {"grids": [], "guidance": []}


def name_search(sampler: Sampler, steps: int, weights: str) -> dict[str, Any]:
    """Return the values by which a saved entry is found: the sampler, the number of steps, the weights."""
    return {"sampler": describe_kind(sampler), "steps": steps, "weights": weights}


def find_searched(run: Path, part: str, name: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the entry with the values of `name`, or None; see `name_search`."""
    return next((entry for entry in read_searched(run)[part] if name.items() <= entry.items()), None)


def save_searched(run: Path, part: str, name: Mapping[str, Any], values: Mapping[str, Any] | None) -> None:
    """Save the result of a search in the place of an earlier one with the same name; None removes that one.

    Two searches that end at the same time lose no result.
    """
    with filelock.FileLock(run / f".{FILE}.lock"):
        entries = read_searched(run)
        entries[part] = [entry for entry in entries[part] if not name.items() <= entry.items()]
        if values is not None:
            entries[part].append({**name, **values})
        write_sealed(run / FILE, entries)


def find_saved_grid(run: Path, sampler: Sampler, steps: int, weights: str) -> Listed | None:
    """Return the grid that a search saved for this sampler, number of steps and weights, or None."""
    entry = find_searched(run, "grids", name_search(sampler, steps, weights))
    return None if entry is None else Listed(tuple(entry["times"]))


def save_grid(
    run: Path, sampler: Sampler, steps: int, weights: str, times: Sequence[float], error: float
) -> None:
    """Save a grid in the run folder; samples use it if `searched` is on and no other grid is given.

    Args:
        run: the run folder.
        sampler: the sampler for which the grid was searched.
        steps: number of times in the grid.
        weights: the weights for which the grid was searched, such as "ema".
        times: the decreasing times (N,) of the grid.
        error: the error of its samples, as `ddim search` measures it.
    """
    entry = {"times": list(times), "error": error}
    save_searched(run, "grids", name_search(sampler, steps, weights), entry)
