"""Runs in memory and on disk: recipes, checkpoints, pipelines, samples, edits of images."""
