"""Metrics: features of images, and numbers with intervals computed from them. No model, no sampler."""
