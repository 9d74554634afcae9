"""How long a running training still needs, from the end of its log. This module does not import torch."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import mean, median
from typing import Any

PACE = 5
"""Number of the last logged steps from which the remaining time of a run is estimated."""

PAUSE = 20
"""If this many times the median time passed between two logged steps, the training was stopped there."""


def estimate_seconds_left(lines: Sequence[Mapping[str, Any]], total: int | None) -> float | None:
    """Return the seconds for the remaining images at the pace of the last logged steps; None if not known.

    Validations between these steps count. A pause before a resume does not.

    Args:
        lines: the last lines of the log.
        total: the images of the whole training; None if they are not known.
    """
    recent = [line for line in lines if "loss" in line][-PACE:]
    if total is None:
        return None
    steps = [(b["time"] - a["time"], b["images"] - a["images"]) for a, b in pairwise(recent)]
    paces = [seconds / images for seconds, images in steps if images > 0]
    kept = [pace for pace in paces if pace <= PAUSE * median(paces)]
    return (total - recent[-1]["images"]) * mean(kept) if kept and mean(kept) > 0 else None
