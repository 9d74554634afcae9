"""All networks, keyed by their names in a recipe, and a network that the user wrote.

To add a network, write a module with its spec and its class, and add a line to `NETWORKS`.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
from torch import nn

from ddim.errors import UserError
from ddim.nn.base import NetworkSpec
from ddim.nn.clear_unet import ClearUNetSpec
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.nn.dit import DiTSpec
from ddim.nn.residual_unet import ResidualUNetSpec
from ddim.nn.unet import UNetSpec

NETWORKS: dict[str, type[NetworkSpec]] = {
    "unet": UNetSpec,
    "residual_unet": ResidualUNetSpec,
    "ddpm_unet": DDPMUNetSpec,
    "clear_unet": ClearUNetSpec,
    "dit": DiTSpec,
}


class UserNetwork(NetworkSpec):
    """The spec of any module net(x, noise_level), or net(x, noise_level, label) with classes or vectors.

    The attributes `classes`, `augment`, `outputs` and `vector` are taken from the module, if it has them.

    Args:
        given: a module with its initial weights; or a class or function that returns a module when it is
            called without arguments. For a class or function, the seed of the run determines the initial
            weights.

    Attributes:
        kinds: the classes of all layers of the module.
        layers: a text that lists all layers.

    Raises:
        UserError: if a call of `given` does not return a module.
    """

    classes, vector, augment, outputs = 0, 0, 0, 1

    def __init__(self, given: nn.Module | Callable[[], nn.Module]) -> None:
        self.given = given
        # Initial weights must not change the caller's random state.
        with torch.random.fork_rng(devices=[]):
            module = self.network()
        self.kinds = sorted({type(layer) for layer in module.modules()}, key=lambda kind: kind.__qualname__)
        self.layers = repr(module)
        for name in ("classes", "vector", "augment", "outputs"):
            if value := getattr(module, name, 0):
                setattr(self, name, value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"

    @property
    def name(self) -> str:
        """The name of the class or of the function."""
        maker = self.given.func if isinstance(self.given, partial) else self.given
        return getattr(maker, "__name__", type(maker).__name__)

    def network(self, channels: int = 0) -> nn.Module:
        """Return a new module; `channels` is not used, because the user chose the channels of the module."""
        module = deepcopy(self.given) if isinstance(self.given, nn.Module) else self.given()
        if not isinstance(module, nn.Module):
            raise UserError(f"net {self.name} must return a torch.nn.Module, got {type(module).__name__}")
        return module
