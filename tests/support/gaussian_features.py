"""Features of invented images."""

import numpy as np


def features(n, d, seed, shift=0.0, scale=1.0):
    """Return normal features (n, d) with this mean and deviation."""
    return np.random.default_rng(seed).standard_normal((n, d)) * scale + shift
