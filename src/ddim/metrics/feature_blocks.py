"""Check sets of features, and read them block by block, because a set may not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ddim.errors import UserError

_ROWS = 1024


def check_features(what: str, generated: np.ndarray, reference: np.ndarray, least: int) -> None:
    """Check that two sets of features can be compared.

    Args:
        what: the name of the metric in the message.
        generated: features (N, d) of generated images.
        reference: features (M, d) of reference images.
        least: the smallest N and M that the metric allows.

    Raises:
        UserError: if the shapes do not fit, or N or M is below `least`.
    """
    if generated.ndim != 2 or reference.ndim != 2 or generated.shape[1] != reference.shape[1]:
        raise UserError(
            f"{what} compares features (N, d) with features (M, d), "
            f"got {generated.shape} for the generated and {reference.shape} for the reference images"
        )
    if min(len(generated), len(reference)) < least:
        raise UserError(
            f"{what} needs at least {least} generated and {least} reference images, "
            f"got {len(generated)} and {len(reference)}"
        )


def read_blocks(features: np.ndarray) -> Iterator[tuple[slice, Tensor]]:
    """Yield (slice, rows) for each block of features (N, d), in order; the rows are float64."""
    for start in range(0, len(features), _ROWS):
        rows = slice(start, start + _ROWS)
        yield rows, torch.from_numpy(np.array(features[rows], np.float64, order="C"))
