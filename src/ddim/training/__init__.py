"""Training: the loop, its callbacks, and the learning-rate range test."""

from ddim.training.callbacks import Callback, MLflow, WandB
from ddim.training.machine import Machine
from ddim.training.run import distill, resume, train

__all__ = ["Callback", "MLflow", "Machine", "WandB", "distill", "resume", "train"]
