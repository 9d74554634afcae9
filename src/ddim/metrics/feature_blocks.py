"""Read sets of features block by block, because a set may not fit into memory as float64."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

_ROWS = 1024


def read_blocks(features: np.ndarray) -> Iterator[tuple[slice, Tensor]]:
    """Yield (slice, rows) for each block of features (N, d), in order; the rows are float64."""
    for start in range(0, len(features), _ROWS):
        rows = slice(start, start + _ROWS)
        yield rows, torch.from_numpy(np.array(features[rows], np.float64, order="C"))
