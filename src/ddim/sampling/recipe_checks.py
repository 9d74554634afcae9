"""Check that a run can sample a label."""

from __future__ import annotations

from ddim.data.clusters import Clusters
from ddim.errors import UserError
from ddim.recipe.checks import check_unconditional
from ddim.recipe.recipe import Recipe
from ddim.sampling.classes import Label
from ddim.sampling.vector_labels import VectorLabel


def check_label(recipe: Recipe, label: Label) -> None:
    """Check that a run of this recipe can sample this label.

    Raises:
        UserError: if the run has no such class, or the label does not suit its training: with classes, with
            vectors or with neither. Also if there is no label, but the network was never trained without a
            class or vector, because `data.unlabelled` is 0.
    """
    data, kind = recipe.data, "vectors" if recipe.data.vectors else "labels" if recipe.data.labels else None
    if label is None:
        check_unconditional(recipe, "sampling without a label")
    elif kind is None or (kind == "vectors") != isinstance(label, VectorLabel) and label != "natural":
        raise UserError(f"label must suit the run, which was trained with {kind or 'no labels'}, got {label}")
    elif label == "natural" and kind == "labels" and not isinstance(data.labels, Clusters):
        raise UserError(
            'label "natural" needs a run with data.labels clusters:K, because other runs do not store how '
            'many images each class has: use "all"'
        )
    elif kind == "labels" and label not in ("all", "natural", *range(recipe.net.classes)):
        last = recipe.net.classes - 1
        raise UserError(f'label must be a class from 0 to {last}, or "all", or left out, got {label!r}')
