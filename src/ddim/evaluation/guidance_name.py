"""Name guidance in words, from its values or from a record. This module does not import torch."""

from collections.abc import Mapping, Sequence
from typing import Any


def name_guidance(scale: float, interval: Sequence[float | None] | None, guide: str | None) -> str:
    """Return guidance in words, such as "guidance 2, log-SNR -2 to 5, guide @guide"; "" for scale 1.

    Args:
        scale: the guidance scale.
        interval: the log-SNRs with guidance; None for all.
        guide: the name of the guide; None if the model without its label guides.
    """
    if scale == 1:
        return ""
    limits = f", log-SNR {name_interval(interval)}" if interval else ""
    return f"guidance {scale:g}{limits}" + (f", guide {name_guide(guide)}" if guide else "")


def name_recorded_guidance(record: Mapping[str, Any]) -> str:
    """Return the guidance of a record in words, from its entries "guidance", "guidance_interval" and "guide".

    Any of these entries may be missing.
    """
    guide = record.get("guide") or {"name": None}
    return name_guidance(record.get("guidance", 1.0), record.get("guidance_interval"), guide["name"])


def name_guide(name: str) -> str:
    """Return the name of a guide without the folders of its run, which are those of one machine.

    A checkpoint keeps the name of its run: "/home/ada/runs/photos-1/best" becomes "photos-1/best".
    """
    if name.startswith(("@", "hub:")):
        return name
    # The path may be from Windows, where both / and \\ separate folders.
    *folders, last = name.replace("\\", "/").rstrip("/").split("/")
    if folders[-1:] in (["checkpoints"], ["guide"]):
        return "/".join([*folders[-2:], last])
    return "/".join([*folders[-1:], last]) if last.partition("@")[0] in ("best", "guide") else last


def name_interval(interval: Sequence[float | None]) -> str:
    """Return an interval in words, such as "-2 to 5" or "above -2"; None is an open end."""
    low, high = interval
    if low is None or high is None:
        return f"above {low:g}" if low is not None else f"below {high:g}"
    return f"{low:g} to {high:g}"
