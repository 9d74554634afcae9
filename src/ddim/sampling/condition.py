"""The condition of samples: the class or the vectors that a user gives."""

from __future__ import annotations

from collections.abc import Sequence

from ddim.errors import UserError
from ddim.sampling.classes import Label, find_label
from ddim.sampling.pipeline import Pipeline
from ddim.sampling.vector_labels import GivenVectors, find_vectors


def choose_condition(
    pipeline: Pipeline, label: str | int | None, vector: GivenVectors | None, seeds: Sequence[int]
) -> Label:
    """Return the label of samples for the class or the vectors that a user gives.

    Args:
        pipeline: the model.
        label: see `find_label`.
        vector: see `find_vectors`.
        seeds: the seeds of the samples.

    Raises:
        UserError: if label and vector are both given, or the run was not trained with what is given.
    """
    if vector is None:
        return find_label(label, pipeline.recipe, pipeline.classes)
    if label is not None:
        raise UserError(f"give label or vector, not both, got label {label!r}")
    if pipeline.vectors is None and pipeline.model.vector:
        raise UserError(
            "vector needs a run, which holds the mean and the standard deviation of its vectors: give "
            "standardised vectors (B, d) to model.with_labels"
        )
    return find_vectors(vector, seeds, pipeline.vectors)
