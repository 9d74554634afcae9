"""Metrics: features of images, and metrics with confidence intervals that are computed from features."""
