"""Copies of constants on a device, which are made only once."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache

import torch
from torch import Tensor


# The program waits for an accelerator when it copies numbers to it.
@lru_cache(maxsize=128)
def copy_to_device(
    owner: Hashable, name: str, device: torch.device, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return the attribute `name` of the frozen dataclass `owner` as a tensor on a device.

    The attribute holds numbers or a tensor.
    """
    # The tensor may be used in training later, where one that was created in inference mode cannot be.
    with torch.inference_mode(False):
        return torch.as_tensor(getattr(owner, name), dtype=dtype).to(device, copy=True)
