"""Training: the loop, its callbacks, and the learning-rate range test."""

from ddim.training.callbacks import Callback
from ddim.training.distill import distill
from ddim.training.run import resume, train
from ddim.training.start import Machine
from ddim.training.trackers import MLflow, WandB

__all__ = ["Callback", "MLflow", "Machine", "WandB", "distill", "resume", "train"]
