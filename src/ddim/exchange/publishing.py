"""Write a loaded run as a published checkpoint: what sampling needs, without the folders of its machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any

from torch import Tensor

from ddim.data.open import NAMES
from ddim.data.remote import names_repository
from ddim.diffusion.loss import Consistency
from ddim.evaluation.guidance_name import name_guide
from ddim.recipe.codec import dump
from ddim.recipe.recipe import Recipe
from ddim.runs.checkpoint import write_checkpoint
from ddim.runs.names import PUBLISHED
from ddim.sampling.pipeline import CLUSTERS, VECTORS, LoadedRun
from ddim.sampling.searched import FILE as SEARCHED
from ddim.sampling.searched import read_searched


@dataclass(frozen=True)
class Published:
    """The result of `write_published`: the recipe, and sentences about what was left out or may surprise."""

    recipe: Recipe
    notes: tuple[str, ...]


def write_published(run: LoadedRun, folder: Path) -> Published:
    """Write the checkpoint, its state and its recipe into a new folder, with a manifest.

    With equal guidance, samples of the checkpoint are bit-identical to samples of the run with these weights.
    The folders of the images and of the vectors are left out of the recipe, and so is saved guidance by
    another checkpoint.
    """
    found, recipe, notes = run.checkpoint, hide_folders(run.recipe), []
    tensors: dict[str, Mapping[str, Tensor]] = {"model": run.model.state_dict()}
    if run.clusters is not None:
        tensors[CLUSTERS] = run.clusters.to_tensors()
    if run.vectors is not None:
        tensors[VECTORS] = run.vectors.to_tensors()
        notes.append("the vectors of all images, also of the validation images, are part of the run")
    old = found.state
    # What only a resume needs is left out.
    state = replace(old, not_finite=0, best=None, sums={}, stopped=None, due=False)
    searched, left = _list_searched(run)
    if left:
        notes.append("guidance by another checkpoint that ddim search found is left out")
    documents = {
        "state": state.to_json(),
        "recipe": dump(recipe),
        PUBLISHED: {"weights": found.weights, "checkpoint": found.sha256},
    }
    documents |= {Path(SEARCHED).stem: searched} if any(searched.values()) else {}
    write_checkpoint(folder, old.step, tensors, documents)
    return Published(recipe, tuple(notes))


def hide_folders(recipe: Recipe) -> Recipe:
    """Return the recipe without the folders of its images, its vectors and its guide; only the names stay.

    The name of a guide that is a checkpoint, such as "small-1/best", includes that of its run.
    """
    data = recipe.data
    on_hub = names_repository(data.source)
    built_in = data.source.partition(":")[0] in NAMES
    # "blossoms:200" is a name with a number; "pets:/path" is a name with a folder.
    source = data.source.partition(":")[0] if built_in and re.search(r"[/\\]", data.source) else data.source
    source = source if on_hub else _name_file(source)
    vectors = None if data.vectors is None else _name_file(data.vectors)
    loss = recipe.objective
    if isinstance(loss, Consistency):
        loss = replace(loss, guide=loss.guide and name_guide(loss.guide), teacher=None)
    return replace(recipe, data=replace(data, source=source, vectors=vectors), objective=loss)


def _name_file(path: str) -> str:
    """Return the last part of a path without leading "." and "~"; `hub_run` refuses names that begin so."""
    # The path may be from Windows, where both / and \ separate folders.
    return PureWindowsPath(path).name.lstrip(".~") or "images"


def _list_searched(run: LoadedRun) -> tuple[dict[str, list[dict[str, Any]]], bool]:
    """Return what searches found for these weights, and whether an entry must be left out."""
    weights = run.checkpoint.weights
    searched = read_searched(run.checkpoint.run)
    own = {part: [e for e in entries if e["weights"] == weights] for part, entries in searched.items()}
    # A guide is another checkpoint, which is not published.
    kept = own | {"guidance": [entry for entry in own["guidance"] if not entry["guide"]]}
    return kept, len(kept["guidance"]) < len(own["guidance"])
