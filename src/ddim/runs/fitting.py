"""Build the model of a recipe around stored weights, with no more memory than the weights need.

Also find whether weights fit a network, and whether two recipes give them the same meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ddim.diffusion.denoiser import Model
from ddim.diffusion.schedules import Cosine
from ddim.recipe.codec import dump
from ddim.recipe.own_parts import is_own
from ddim.recipe.recipe import Recipe, build_model
from ddim.runs.manifest import Damaged

_CALLS, _MORE_CALLS = 100, 5000
"""The allowed calls of torch functions: `_CALLS` for each stored tensor, and `_MORE_CALLS` in addition.

Our networks need 10 calls for each tensor.
"""


def build_fitting_model(path: Path, recipe: Recipe, channels: int, tensors: Mapping[str, Tensor]) -> Model:
    """Return the model of a recipe with the weights `tensors`.

    A run may come from a stranger, so the network is first built without memory. Building stops early if the
    network is far larger than the stored weights, such as a network with a million blocks.

    Args:
        path: the checkpoint, for messages.
        recipe: the recipe.
        channels: the number of image channels.
        tensors: the weights, keyed by name.

    Raises:
        Damaged: if the weights do not fit the network of the recipe.
    """
    check_fit(path, recipe, channels, tensors)
    # Building a model draws initial weights, which must not change the caller's random state.
    with torch.random.fork_rng(devices=[]):
        model = build_model(recipe, channels)
    if wrong := find_misfit(model.state_dict(), tensors):
        raise _describe_misfit(path, wrong)
    model.load_state_dict(tensors)
    return model


def check_fit(path: Path, recipe: Recipe, channels: int, tensors: Mapping[str, Tensor]) -> None:
    """Check that weights fit the network of a recipe, without allocating memory for the network.

    A network that the user wrote is not checked. The arguments and errors are those of `build_fitting_model`.
    """
    # A network that the user wrote may need real tensors when it is built, and can be trusted.
    if is_own(recipe.net):
        return
    # So may a schedule; it has no weights, and another one takes its place.
    if is_own(recipe.schedule):
        recipe = replace(recipe, schedule=Cosine())
    model = build_on_meta(recipe, channels, len(tensors), path)
    if wrong := find_misfit(model.state_dict(), tensors):
        raise _describe_misfit(path, wrong)


def build_on_meta(recipe: Recipe, channels: int, tensors: int, source: Path) -> Model:
    """Return the model of a recipe on the device "meta", where its weights take no memory.

    Args:
        recipe: the recipe.
        channels: the number of image channels.
        tensors: the number of tensors of the file; a network with far more of them is not built.
        source: the file or folder with the weights, for messages.

    Raises:
        Damaged: if the network is too large.
    """
    try:
        with torch.device("meta"), _Limit(_CALLS * tensors + _MORE_CALLS):
            return build_model(recipe, channels)
    # A number of channels of a wrong type raises TypeError.
    except (_TooMany, RuntimeError, OverflowError, MemoryError, TypeError) as error:
        raise Damaged(
            f"{source} cannot be used: it describes a network that is far larger than its weights"
        ) from error


def find_misfit(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of a weight that `state` or `tensors` lacks, or that has different shapes in them.

    Return None if there is no such weight.
    """
    wrong = [name for name in state if name not in tensors or tensors[name].shape != state[name].shape]
    wrong += [name for name in tensors if name not in state]
    return wrong[0] if wrong else None


def find_other_meaning(one: Recipe, other: Recipe) -> str | None:
    """Return the first field by which two recipes give the same weights another meaning; None without one.

    Dropout and the numbers of classes and of vector entries are not compared.
    """
    for name in "net", "schedule", "predicts", "conditioning":
        found = [dump(getattr(recipe, name), named=True) for recipe in (one, other)]
        for ignored in ("dropout", "classes", "vector"):
            for part in found:
                part.pop(ignored, None)
        if found[0] != found[1]:
            return name
    return None


def _describe_misfit(path: Path, wrong: str) -> Damaged:
    return Damaged(
        f"{path}/model.safetensors does not fit its recipe: {wrong} is missing or of another shape"
    )


class _TooMany(Exception):  # noqa: N818 (an event inside this module)
    """A block has made more calls of torch functions than `_Limit` allows."""


class _Limit(TorchFunctionMode):
    """Ends a `with` block by `_TooMany` after `calls` calls of torch functions in this thread."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  (torch's)
        self.left -= 1
        if self.left < 0:
            raise _TooMany
        return func(*args, **(kwargs or {}))
