"""Where a training step runs: the seam between the loop and one or several processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ddim.diffusion.noise import stream
from ddim.nn.runtime import Runtime


class Engine(Protocol):
    """All that the loop asks of the machine."""

    runtime: Runtime
    rank: int
    world: int

    def ready(self, net: nn.Module) -> nn.Module:
        """The network as training calls it: compiled, or wrapped for several processes; it shares weights."""
        ...

    def precise(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, averaged over processes."""
        ...

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a value over processes."""
        ...


class LocalEngine:
    """Plain torch in one process."""

    rank, world = 0, 1

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def ready(self, net: nn.Module) -> nn.Module:
        """See `Engine`."""
        return self.runtime.compiled(net)

    def precise(self) -> AbstractContextManager[Any]:
        """See `Engine`."""
        return self.runtime.precise()

    def backward(self, loss: Tensor) -> None:
        """See `Engine`."""
        loss.backward()

    def mean(self, value: Tensor) -> Tensor:
        """See `Engine`."""
        return value


@contextmanager
def streaming(device: str, seed: int, use: int, step: int) -> Iterator[None]:
    """Within, the global generators are such streams, for what can draw from no other: dropout."""
    cuda = [device] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.set_state(stream("cpu", seed, use, step).get_state())
        for name in cuda:
            torch.cuda.set_rng_state(stream(name, seed, use, step).get_state(), name)
        yield
