"""A run on disk: its folder, checkpoints, averages and log."""
