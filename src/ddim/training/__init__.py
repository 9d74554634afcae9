"""Training: the loop, what happens beside it, and the learning-rate finder."""

from ddim.training.callbacks import Callback
from ddim.training.loop import NotFinite
from ddim.training.run import Interrupted, Machine, resume, train

__all__ = ["Callback", "Interrupted", "Machine", "NotFinite", "resume", "train"]
