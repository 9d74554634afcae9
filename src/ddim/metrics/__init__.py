"""Compute features of images, metrics from these features, and confidence intervals of metrics."""
