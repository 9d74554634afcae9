"""The weaker models that can guide the samples of a run: its early checkpoint, and other runs that fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddim.experiments.index import Run
from ddim.runs.folder import CHECKPOINTS
from ddim.web.answers import Refused
from ddim.web.run_list import ListedRun

OWN = "@guide"
"""The id of the early checkpoint of the run itself, as in `--guide-with @guide`."""
MOST = 50
"""The largest number of other runs that are offered as guides."""


@dataclass(frozen=True)
class Guide:
    """A weaker model: `OWN` or the id of a run, and a text for a menu."""

    id: str
    name: str


def list_guides(own: str, known: Mapping[str, ListedRun]) -> list[Guide]:
    """Return the models that can guide a run, its own early checkpoint first, then the newest runs.

    Args:
        own: the id of the run that is guided.
        known: all runs, keyed by id.
    """
    run = known[own].run
    found = [Guide(OWN, "its early checkpoint")] if _has_steps(run.path / "guide") else []
    others = sorted(known.values(), key=lambda other: other.row.changed or 0, reverse=True)
    # Runs that wait have no run.json yet, and that of a damaged run can hold anything.
    begun = [other for other in others if other.row.size is not None and other.run.facts]
    fitting = [other for other in begun if other.row.id != own and fits(run, other.run)]
    saved = [other for other in fitting[: 4 * MOST] if _has_steps(other.run.path / CHECKPOINTS)]
    return found + [Guide(other.row.id, f"run {other.row.name}") for other in saved[:MOST]]


def find_guide(given: str, own: str, known: Mapping[str, ListedRun]) -> str:
    """Return a guide as `ddim sample --guide-with` takes it.

    Args:
        given: the id of a guide.
        own: the id of the run that is guided.
        known: all runs, keyed by id.

    Raises:
        Refused: if this guide cannot guide the run.
    """
    if given not in {guide.id for guide in list_guides(own, known)}:
        raise Refused(
            422,
            "guide_with must be @guide, or the id of a run with the same images, split, size, pixels and "
            f"labels and with a checkpoint, and no student, got {given!r}",
        )
    return given if given == OWN else str(known[given].run.path)


def fits(run: Run, other: Run) -> bool:
    """Return whether `other` can guide `run`, as far as their run.json files tell.

    Both runs must have the same images, split in the same way, because the map from pixels to model units is
    measured on the training images.
    """
    if _traits(run) != _traits(other) or _is_student(other):
        return False
    data = other.recipe["data"]
    if not (data.get("labels") or data.get("vectors")):
        return True
    if _condition(run) == (None, None, None):
        return bool(data.get("unlabelled"))
    return _condition(run) == _condition(other)


def _traits(run: Run) -> tuple[Any, ...]:
    data = run.recipe["data"]
    own = [data.get(name) for name in ("size", "channels", "validation", "dequantise", "values", "range")]
    seed = run.recipe.get("seed") if data.get("split_seed") is None else data["split_seed"]
    return (*own, _images(run).get("fingerprint"), run.recipe.get("pixels"), seed)


def _condition(run: Run) -> tuple[Any, ...]:
    """Return what the network is conditioned on: the kind of labels, the classes, the hash of vectors."""
    labels, vectors = run.recipe["data"].get("labels"), _images(run).get("vectors")
    return (
        labels or None,
        _images(run).get("classes") if labels else None,
        vectors.get("sha256") if isinstance(vectors, Mapping) else None,
    )


def _images(run: Run) -> Mapping[str, Any]:
    found = run.facts.get("data")
    return found if isinstance(found, Mapping) else {}


def _is_student(run: Run) -> bool:
    return run.recipe.get("objective", {}).get("kind") == "consistency"


def _has_steps(folder: Path) -> bool:
    return any(folder.glob("step-*"))
