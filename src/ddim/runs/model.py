"""Build the model of a recipe around the weights of a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ddim.diffusion.denoiser import Model
from ddim.recipe.codec import list_fields
from ddim.recipe.recipe import Recipe, build_model
from ddim.recipe.user_parts import is_user_part
from ddim.runs.checkpoint import Damaged

LARGEST, LONGEST = 30_000, 100
"""The largest number, and the longest list of numbers, of a network in a checkpoint."""


def build_fitting_model(path: Path, recipe: Recipe, channels: int, tensors: Mapping[str, Tensor]) -> Model:
    """Return the model of a recipe with the weights `tensors`.

    A checkpoint may come from a stranger, so its network is first built without memory.

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
    _compare(path, model.state_dict(), tensors)
    model.load_state_dict(tensors)
    return model


def check_fit(path: Path, recipe: Recipe, channels: int, tensors: Mapping[str, Tensor]) -> None:
    """Check that weights fit the network of a recipe, without allocating memory for the network.

    A network that the user wrote is not checked, because it may need real tensors when it is built. The
    arguments and errors are those of `build_fitting_model`.
    """
    if not is_user_part(recipe.net):
        state = build_on_meta(recipe, channels, path).state_dict()
        _compare(path, {f"net.{name}": value for name, value in state.items()}, tensors)


def build_on_meta(recipe: Recipe, channels: int, source: Path) -> nn.Module:
    """Return the network of a recipe on the device "meta", where its weights take no memory.

    Args:
        recipe: the recipe.
        channels: the number of image channels.
        source: the file or folder with the weights, for messages.

    Raises:
        Damaged: if the network is too large.
    """
    rows = [value if isinstance(value, tuple) else (value,) for _, _, value in list_fields(recipe.net)]
    numbers = [number for row in rows for number in row if isinstance(number, int | float)]
    try:
        if max(map(len, rows), default=0) <= LONGEST and max(numbers, default=0) <= LARGEST:
            with torch.device("meta"):
                return recipe.net.network(channels)
    # Channels of a wrong type raise TypeError, and huge numbers the others.
    except (RuntimeError, OverflowError, MemoryError, TypeError):
        pass
    raise Damaged(f"{source} cannot be used: its network is far larger than its weights") from None


def find_misfit(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of a weight that `state` or `tensors` lacks, or that has different shapes in them.

    Return None if there is no such weight.
    """
    wrong = [name for name in state if name not in tensors or tensors[name].shape != state[name].shape]
    wrong += [name for name in tensors if name not in state]
    return wrong[0] if wrong else None


def _compare(path: Path, state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    if wrong := find_misfit(state, tensors):
        raise Damaged(
            f"{path}/model.safetensors does not fit its recipe: {wrong} is missing or of another shape"
        )


def digest_weights(model: nn.Module) -> str:
    """Return the SHA-256 (hex) of all weights of a model, in their order, without their names."""
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
