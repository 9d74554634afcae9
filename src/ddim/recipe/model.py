"""Build the model of a recipe around given weights."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from ddim.diffusion.denoiser import Model
from ddim.errors import UserError
from ddim.recipe.codec import walk_slots
from ddim.recipe.recipe import Recipe, build_model
from ddim.recipe.user_parts import is_user_part

LARGEST, LONGEST = 30_000, 100
"""The largest number, and the longest list and the most layers of a stage, of a network for given weights."""


def build_fitting_model(source: Path, recipe: Recipe, channels: int, tensors: Mapping[str, Tensor]) -> Model:
    """Return the model of a recipe with the weights `tensors`.

    A stranger may have written the recipe. Except for a network of the user, which may need real tensors when
    it is built, the network is therefore first built without memory.

    Args:
        source: the file or folder with the weights, for messages.
        recipe: the recipe.
        channels: the number of image channels.
        tensors: the weights, keyed by name.

    Raises:
        UserError: if the weights do not fit the network of the recipe.
    """
    if not is_user_part(recipe.net):
        state = build_on_meta(recipe, channels, source).state_dict()
        _check_fit(source, {f"net.{name}": value for name, value in state.items()}, tensors)
    # Building a model draws initial weights, which must not change the caller's random state.
    with torch.random.fork_rng(devices=[]):
        model = build_model(recipe, channels)
    _check_fit(source, model.state_dict(), tensors)
    model.load_state_dict(tensors)
    return model


def build_on_meta(recipe: Recipe, channels: int, source: Path) -> nn.Module:
    """Return the network of a recipe on the device "meta", where its weights take no memory.

    Args:
        recipe: the recipe.
        channels: the number of image channels.
        source: the file or folder with the weights, for messages.

    Raises:
        UserError: if the network is too large.
    """
    with suppress(RuntimeError, OverflowError, MemoryError):  # the errors of huge numbers
        for name, slot in walk_slots(recipe.net):
            values = slot.value if isinstance(slot.value, tuple) else (slot.value,)
            largest = LONGEST if name in ("depth", "blocks") else LARGEST
            if len(values) > LONGEST or any(isinstance(v, int | float) and v > largest for v in values):
                raise OverflowError
        with torch.device("meta"):
            return recipe.net.network(channels)
    raise UserError(f"{source} cannot be used: its network is far larger than its weights")


def find_misfit(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of a weight that `state` or `tensors` lacks, or that has different shapes in them.

    Return None if there is no such weight.
    """
    shapes, held = ({(name, value.shape) for name, value in each.items()} for each in (state, tensors))
    return min(name for name, _ in shapes ^ held) if shapes != held else None


def _check_fit(source: Path, state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    if wrong := find_misfit(state, tensors):
        raise UserError(f"{source} does not fit its recipe: {wrong} is missing or of another shape")
