"""A model in memory makes images: pipelines, guidance, labels, seeds, edits."""
