"""Training: the loop, what happens beside it, and the learning-rate finder."""

from ddim.training.callbacks import Callback
from ddim.training.run import Machine, resume, train

__all__ = ["Callback", "Machine", "resume", "train"]
