"""A network that the user wrote, as the field `net` of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
from torch import nn

from ddim.errors import UserError


class OwnNetwork:
    """A `NetworkSpec` for any module net(x, noise_level), or net(x, noise_level, label) with classes.

    The attributes `classes`, `augment`, `outputs` and `vector` are taken from the module, by default 0, 0, 1
    and 0.

    Args:
        given: a module with its initial weights; or a class or function that returns a module when it is
            called without arguments. For a class or function, the seed of the run determines the initial
            weights.

    Raises:
        UserError: if a call of `given` does not return a module.
    """

    multiple = 1
    widths: tuple[int, ...] = ()

    def __init__(self, given: nn.Module | Callable[[], nn.Module]) -> None:
        self.given = given
        # Initial weights must not change the caller's random state.
        with torch.random.fork_rng(devices=[]):
            module = self.network()
        self.kinds = sorted({type(layer) for layer in module.modules()}, key=lambda kind: kind.__qualname__)
        self.layers = repr(module)
        absent = {"classes": 0, "augment": 0, "outputs": 1, "vector": 0}
        stated: list[int] = [getattr(module, name, value) for name, value in absent.items()]
        self.classes, self.augment, self.outputs, self.vector = stated

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"

    @property
    def name(self) -> str:
        """The name of the class or of the function."""
        made = self.given.func if isinstance(self.given, partial) else self.given
        return getattr(made, "__name__", type(made).__name__)

    @property
    def takes_classes(self) -> bool:
        """Whether the module has classes; see `NetworkSpec`."""
        return self.classes > 0

    @property
    def takes_vector(self) -> bool:
        """Whether the module takes a vector; see `NetworkSpec`."""
        return self.vector > 0

    def network(self, channels: int = 0) -> nn.Module:
        """Return a new module; `channels` is not used, because the user chose the channels of the module."""
        module = deepcopy(self.given) if isinstance(self.given, nn.Module) else self.given()
        if not isinstance(module, nn.Module):
            raise UserError(f"net {self.name} must return a torch.nn.Module, got {type(module).__name__}")
        return module
