"""The names of `ddim.cli.progress` for the commands that still have a module."""

from ddim.cli.output import say
from ddim.cli.progress import Console, ProgressDisplay

__all__ = ["Console", "ProgressDisplay", "say"]
