"""A run in memory and on disk: recipe, checkpoint, pipeline, samples."""
