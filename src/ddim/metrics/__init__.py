"""Metrics: images to features, and features to numbers. No model and no sampler is known here."""
