"""Train a diffusion model on your own images, sample it in a handful of steps, and know how good it is."""

__version__ = "0.1.0"
