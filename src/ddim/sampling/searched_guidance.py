"""Read and write guidance.json in a run folder: the guidance that `ddim search --guidance` found.

Its keys are those of the searched grids, and also say whether the samples have labels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ddim.diffusion.samplers import Sampler
from ddim.files import write_sealed
from ddim.runs.names import pin_place
from ddim.sampling.searched_grids import read_entries, sampling_key

FILE = "guidance.json"


@dataclass(frozen=True)
class SavedGuidance:
    """Guidance as it is saved: the guide is a name, not a loaded model.

    Attributes:
        scale: guidance scale; 1 is no guidance.
        interval: (lowest, highest) log-SNR with guidance, in which None is an open end. None in place of the
            pair means that guidance is used at all noise levels.
        guide: the name of the guide, such as "@guide"; None if the guide is the run itself without a label.
    """

    scale: float = 1.0
    interval: tuple[float | None, float | None] | None = None
    guide: str | None = None


def find_saved_guidance(
    run: Path, sampler: Sampler, steps: int, weights: str, *, labelled: bool
) -> SavedGuidance | None:
    """Return the guidance that a search saved, or None; see `save_guidance`."""
    entry = read_entries(run / FILE, _is_guidance).get(_key(sampler, steps, weights, labelled))
    if entry is None:
        return None
    interval = entry.get("interval")
    return SavedGuidance(float(entry["scale"]), interval and (interval[0], interval[1]), entry.get("guide"))


def save_guidance(
    run: Path, sampler: Sampler, steps: int, weights: str, found: SavedGuidance | None, *, labelled: bool
) -> None:
    """Save guidance in the run folder; `ddim sample` uses it if the user gives no guidance scale.

    Args:
        run: the run folder.
        sampler: the sampler for which guidance was searched.
        steps: number of sampling steps.
        weights: the weights of the model, such as "ema".
        found: the guidance; None removes what an earlier search saved.
        labelled: whether samples have a class label.
    """
    entries, key = read_entries(run / FILE, _is_guidance), _key(sampler, steps, weights, labelled)
    before = entries.pop(key, None)
    if found is not None:
        # The samples may be made from another working folder.
        entries[key] = asdict(replace(found, guide=found.guide and pin_place(found.guide)))
    if found is not None or before is not None:
        write_sealed(run / FILE, entries)


def _is_guidance(entry: dict[str, Any]) -> bool:
    interval, guide = entry.get("interval"), entry.get("guide")
    ends = interval if isinstance(interval, list) and len(interval) == 2 else [""]
    known = interval is None or all(end is None or isinstance(end, int | float) for end in ends)
    return known and isinstance(entry.get("scale"), int | float) and isinstance(guide, str | None)


def _key(sampler: Sampler, steps: int, weights: str, labelled: bool) -> str:
    return f"{sampling_key(sampler, steps, weights)} labels={'yes' if labelled else 'no'}"
