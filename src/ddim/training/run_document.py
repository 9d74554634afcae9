"""Describe a new run: the content of its run.json, and the name of its images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddim.data.arrays import PREFIX
from ddim.data.open import absolute_source
from ddim.data.remote import names_repository, parse_repository
from ddim.data.vectors import ImageVectors
from ddim.errors import UserError
from ddim.recipe.codec import dump
from ddim.runs.names import pin_place
from ddim.sampling.pipeline import LoadedRun
from ddim.sampling.provenance import list_versions
from ddim.training.loop import Training
from ddim.training.shared_settings import describe_processes
from ddim.training.start import Machine


def describe_run(
    training: Training, machine: Machine, source: Path | None, parent: LoadedRun | None
) -> dict[str, object]:
    """Return the content of run.json.

    Args:
        training: the training at its start.
        machine: what the user asked for.
        source: the folder of the run whose weights the new run starts from, if there is one.
        parent: that run, loaded.
    """
    images, clusters = training.split.images, training.split.clusters
    return {
        "recipe": dump(training.recipe),
        "seed": training.recipe.seed,
        "source": None if source is None else pin_place(str(source)),
        # The hash identifies the weights, because a source that is trained further has other weights.
        "source_sha256": None if parent is None else parent.checkpoint.sha256,
        **({"guide": training.teacher.guide} if training.teacher and training.teacher.guide else {}),
        "data": {
            "source": training.recipe.data.source,
            "path": absolute_source(training.recipe.data.source),
            "fingerprint": images.fingerprint,
            "images": len(images),
            "train": len(training.split.train),
            "valid": len(training.split.validation),
            "classes": list(images.classes),
            **({"class_counts": clusters.counts.tolist()} if clusters else {}),
            **({"vectors": describe_vectors(vectors)} if (vectors := training.split.vectors) else {}),
        },
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "runtime": vars(training.runtime),
        "processes": describe_processes(training.processes, training.runtime.device),
        "asked": vars(machine),
        "checkpointed": False,
        "versions": list_versions(),
    }


def describe_vectors(vectors: ImageVectors) -> dict[str, Any]:
    """Return what run.json says about the vectors of the images.

    These are the columns and a hash, and the mean, deviation and range over the training images.
    """
    rows = vectors.rows[vectors.train]
    return {
        "columns": list(vectors.columns),
        "sha256": vectors.sha256,
        "mean": vectors.mean.tolist(),
        "deviation": vectors.deviation.tolist(),
        "low": rows.min(0).tolist(),
        "high": rows.max(0).tolist(),
    }


def check_same_vectors(training: Training, document: dict[str, Any]) -> None:
    """Check that a restarted run has the same vectors as when it began.

    Args:
        training: the training.
        document: the content of run.json.

    Raises:
        UserError: if the vectors have changed.
    """
    vectors, known = training.split.vectors, document["data"].get("vectors")
    if vectors is not None and known is not None and vectors.sha256 != known["sha256"]:
        raise UserError(
            f"the vectors {training.recipe.data.vectors} have changed since the run began: put them back, "
            "or start "
            "a new run"
        )


def check_same_guide(training: Training, document: dict[str, Any]) -> None:
    """Check that a restarted student has the same guide as when it began; see `check_same_vectors`.

    Raises:
        UserError: if the weights of the guide have changed.
    """
    guide, known = training.teacher and training.teacher.guide, document.get("guide")
    # The path may be another one, because it may have been relative to another working folder.
    facts = "sha256", "weights", "average"
    if guide and known and any(guide.get(fact) != known.get(fact) for fact in facts):
        raise UserError(
            f"the guide {known['name']} has changed since the run began: put it back, or start a new run"
        )


def name_data(data: str) -> str:
    """Return a name for the run folder, such as "flowers64" for path/to/flowers64.zip."""
    if names_repository(data):
        return parse_repository(data).id.partition("/")[2]
    data = data.removeprefix(PREFIX)
    name = Path(data.split(":", maxsplit=1)[0] if ":" in data and not Path(data).exists() else data).name
    return name.split(".")[0] or "images"
