"""The network of one process of a training, whose gradients are averaged over all processes."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ddim.nn.processes import Processes


class Replica(DistributedDataParallel):
    """The network of one process; each backward pass averages its gradients over all processes."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (any attribute of the network)
        """Return an attribute of the network, such as its number of classes."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


def replicate(net: nn.Module, processes: Processes, *, unused: bool) -> nn.Module:
    """Return a network whose gradients are averaged over all processes; for one process, `net` itself.

    Args:
        net: the network.
        processes: the processes of the training.
        unused: whether a step may leave some weights without a gradient. Each step then looks for them.
    """
    if processes.count == 1:
        return net
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        # Newer versions of torch warn that `broadcast_buffers` has a new name. Nothing is broadcast, because
        # the buffers are equal in all processes.
        return Replica(
            net, broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=unused
        )
