"""What a set of pictures depends on, so that a number about them can carry it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ddim.runs import folder as tracking
from ddim.runs.classes import Label
from ddim.runs.codec import dump
from ddim.runs.pipeline import LoadedRun


def sampling_record(
    trained: LoadedRun,
    seeds: Sequence[int],
    steps: int,
    nfe: int,
    label: Label,
    guidance: float = 1.0,
) -> dict[str, Any]:
    """Checkpoint and its hash, weights, recipe, sampler, times, NFE, seeds, label and its name, guidance,
    runtime and versions, as JSON.
    """
    recipe = trained.recipe
    return {
        "checkpoint": {"path": str(trained.checkpoint.path), "sha256": trained.checkpoint.sha256},
        "step": trained.checkpoint.state.step,
        "weights": trained.checkpoint.weights,
        "recipe": dump(recipe),
        "sampler": dump(recipe.sampler, named=True),
        "grid": dump(recipe.grid, named=True),
        "schedule": dump(recipe.walked, named=True),
        "clip": recipe.clip,
        "times": recipe.grid(steps, recipe.walked).tolist(),
        "nfe": nfe,
        "seeds": list(seeds),
        "label": label,
        "class": trained.checkpoint.state.classes[label] if isinstance(label, int) else None,
        "guidance": guidance,
        "runtime": vars(trained.runtime),
        # Pictures are the same bits only where they are made as the run chose, and nothing is compiled.
        "bit_equal": trained.runtime == replace(trained.checkpoint.state.runtime, compile=False),
        "versions": tracking.versions(),
    }
