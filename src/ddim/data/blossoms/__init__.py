"""A synthetic data set: flowers that this package draws, without any file."""
