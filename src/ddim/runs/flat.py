"""A recipe as one row of text: read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ERRORS = ("noise_mae", "image_mae")
"""What training itself measures, on validation images."""


def fields(recipe: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """A recipe's fields as text, by the paths that options have: {"schedule": "cosine", "optim.lr": "0.001"}.

    Its name is no field: it says where the others come from.
    """
    flat: dict[str, str] = {}
    for name, value in recipe.items():
        whole = f"{path}.{name}".lstrip(".")
        if whole == "name":
            continue
        if isinstance(value, Mapping):
            flat |= {whole: str(value["kind"])} if "kind" in value else {}
            flat |= fields({key: inner for key, inner in value.items() if key != "kind"}, whole)
        else:
            flat[whole] = text(value)
    return flat


def text(value: object) -> str:
    """As an option takes it: true, not True."""
    if isinstance(value, list | tuple):
        return ",".join(text(item) for item in value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
