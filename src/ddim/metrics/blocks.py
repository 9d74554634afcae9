"""Two sets of features, checked, and read in blocks: neither they nor all their pairs are ever in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ddim.errors import UserError

_ROWS = 1024


def check_features(what: str, generated: np.ndarray, reference: np.ndarray, least: int) -> None:
    """UserError where (N, d) and (M, d) features do not fit one another, or N or M is less than least."""
    if generated.ndim != 2 or reference.ndim != 2 or generated.shape[1] != reference.shape[1]:
        raise UserError(
            f"{what} compares features (N, d) with features (M, d), "
            f"got {generated.shape} of the generated and {reference.shape} of the reference images"
        )
    if min(len(generated), len(reference)) < least:
        raise UserError(
            f"{what} needs at least {least} images on both sides, "
            f"got {len(generated)} generated and {len(reference)} of the reference"
        )


def read_blocks(features: np.ndarray) -> Iterator[tuple[slice, Tensor]]:
    """(rows, features of these rows as float64) of (N, d), in order."""
    for start in range(0, len(features), _ROWS):
        rows = slice(start, start + _ROWS)
        yield rows, torch.from_numpy(np.array(features[rows], np.float64, order="C"))
