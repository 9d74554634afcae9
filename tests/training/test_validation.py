"""Means of errors by level of noise."""

import pytest
import torch

from ddim.training.validation import mean_by_level


def test_means_by_log_snr_use_the_values_in_each_bin():
    log_snr = torch.tensor([-3.9, -2.1, -2.0, 0.5])
    found = mean_by_level(log_snr, {"a": torch.tensor([1.0, 3.0, 5.0, 7.0])})
    values = {name: value for name, value in found.items() if name.startswith("a/")}
    assert values == {"a/log_snr_-4": 2.0, "a/log_snr_-2": 5.0, "a/log_snr_0": 7.0}
    # Of 1 and 3 the deviation is the root of 2, and of their mean 1. One value tells nothing of its own.
    ends = {"a_low/log_snr_-4": 2 - 1.96, "a_high/log_snr_-4": 2 + 1.96}
    assert {name: found[name] for name in found if name not in values} == pytest.approx(ends)
