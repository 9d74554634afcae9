"""Measure how good the samples of a run are, and find the reasons."""
