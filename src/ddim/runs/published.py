"""Recognise published runs: checkpoints with one set of weights and nothing that only training needs.

The file ``published.json`` of such a checkpoint says which weights `model.safetensors` holds. The grids and
the guidance that `ddim search` found are parts of the checkpoint too.
"""

from __future__ import annotations

import re
from pathlib import Path

from ddim.errors import UserError
from ddim.runs.manifest import Damaged, read_document, read_manifest

PUBLISHED = "published"
"""The name of the JSON document that only a published run has."""


def is_published(path: Path) -> bool:
    """Return whether the checkpoint `path` is a published run."""
    return f"{PUBLISHED}.json" in read_manifest(path).files


def choose_published(path: Path, weights: str) -> str | None:
    """Return the name of the weights of a published run; None if `path` is not a published run.

    Args:
        path: the checkpoint.
        weights: the name that the user gave. "ema", which is the default, means the published weights.

    Raises:
        UserError: if other weights are asked for.
        Damaged: if the file that names the weights is damaged.
    """
    if not is_published(path):
        return None
    document = read_document(path, PUBLISHED)
    held = document.get("weights") if isinstance(document, dict) else None
    if not isinstance(held, str) or not re.fullmatch(r"[\w.-]{1,100}", held, re.ASCII):
        raise Damaged(f"{path} is damaged: {PUBLISHED}.json does not name the weights")
    if weights not in ("ema", held):
        raise UserError(
            f"run {path.name} was published with its weights {held} alone: leave weights out, got {weights!r}"
        )
    return held
