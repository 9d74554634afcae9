"""Name guidance in words, from the entries of a record. This module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def name_guidance(record: Mapping[str, Any]) -> str:
    """Return guidance in words, such as "guidance 2, log-SNR -2 to 5, guide @guide"; "" without guidance.

    Args:
        record: the entries "guidance", "guidance_interval" and "guide" of a record; any may be missing.
    """
    scale = record.get("guidance", 1.0)
    if scale == 1:
        return ""
    words = [f"guidance {scale:g}"]
    if interval := record.get("guidance_interval"):
        words.append(f"log-SNR {name_interval(interval)}")
    if guide := record.get("guide"):
        words.append(f"guide {name_guide(guide['name'])}")
    return ", ".join(words)


def name_guide(name: str) -> str:
    """Return the name of a guide without the folders of its run, which are those of one machine.

    A checkpoint keeps the name of its run: "/home/ada/runs/photos-1/best" becomes "photos-1/best".
    """
    if name.startswith(("@", "hub:")):
        return name
    parts = Path(name).parts or (name,)
    kept = 2 if parts[-1].partition("@")[0] in ("best", "guide") else 1
    inside = parts[-2:-1] in (("checkpoints",), ("guide",))
    return "/".join(parts[-3:] if inside else parts[-kept:])


def name_interval(interval: Sequence[float | None]) -> str:
    """Return an interval in words, such as "-2 to 5" or "above -2"; None is an open end."""
    low, high = interval
    if low is None or high is None:
        return f"above {low:g}" if low is not None else f"below {high:g}"
    return f"{low:g} to {high:g}"
