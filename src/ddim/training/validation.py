"""What a run measures of itself on its validation images."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ddim.diffusion import log_snr as levels
from ddim.metrics.statistics import estimate_mean


def means(log_snr: Tensor, values: Mapping[str, Tensor]) -> dict[str, float]:
    """Means of named values (N,) in each bin of their log-SNR (N,): {"noise_mae/log_snr_-4": 0.2}.

    With the ends of their 95 % intervals, "noise_mae_low/log_snr_-4" and "noise_mae_high/log_snr_-4", where
    a bin has two values or more.
    """
    bins, found = levels.bins(log_snr), {}
    for name, value in values.items():
        for b in bins.unique():
            inside = value[bins == b].double()
            found[f"{name}/log_snr_{int(b)}"] = inside.mean().item()
            if len(inside) > 1:
                interval = estimate_mean(inside.numpy())
                found[f"{name}_low/log_snr_{int(b)}"] = float(interval.low)
                found[f"{name}_high/log_snr_{int(b)}"] = float(interval.high)
    return found
