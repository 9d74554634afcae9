"""Check a network and a loss that the user wrote by calling each of them once, before a training."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch

from ddim.data import SplitImages
from ddim.diffusion.denoiser import check_output
from ddim.diffusion.pixels import Pixels
from ddim.errors import UserError, describe_given
from ddim.nn.own_network import OwnNetwork
from ddim.runs.own_parts import is_own
from ddim.runs.recipe import Recipe, build_model


def check_network(recipe: Recipe, parts: SplitImages) -> None:
    """Check that a network written by the user can be called as `OwnNetwork` describes.

    Raises:
        UserError: if the call fails, the output has a wrong shape, or the network has no weights.
    """
    if not isinstance(recipe.net, OwnNetwork):
        return
    # Initial weights and dropout must not change the caller's random state.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        net, channels = recipe.net.network(), parts.images.pixels.shape[-1]
        x, name = torch.zeros(2, channels, *recipe.data.size), recipe.net.name
        augments = recipe.net.augment if recipe.augment.probability else 0
        # Validation and sampling never pass augmentation labels.
        kinds = [({}, ", without augment" if augments else "")]
        if augments:
            kinds.append(({"augment": torch.zeros(2, augments)}, f" and augment (2, {augments})"))
        for (labels, words), (options, more) in product(_list_labels(recipe), kinds):
            try:
                output = net(x, torch.zeros(2), *labels, **options)
            except Exception as error:
                called = f"net {name}, called with x {tuple(x.shape)}, noise_level (2,){words}{more},"
                raise UserError(f"{called} fails: {type(error).__name__}: {error}") from error
            check_output(output, x, name, label=bool(labels), outputs=[recipe.net.outputs])
    if not any(weight.requires_grad for weight in net.parameters()):
        raise UserError(f"net {name} must have weights to train, torch.nn.Parameter, got none")


def _list_labels(recipe: Recipe) -> Iterator[tuple[tuple[torch.Tensor | None, ...], str]]:
    """Yield the third argument of each kind of call of a network, if there is one, and words about it."""
    if recipe.net.vector:
        given = torch.zeros(2, recipe.net.vector)
        without, words = torch.full_like(given, torch.nan), f" and vector (2, {recipe.net.vector})"
    elif recipe.net.classes:
        given = torch.zeros(2, dtype=torch.int64)
        without, words = torch.full_like(given, -1), " and label (2,)"
    else:
        yield (), ""
        return
    yield (given,), words
    if recipe.data.unconditional:
        yield (without,), f"{words} of {without.flatten()[0]:g}, which means none"
        yield (None,), f" and {words.split()[1]} None, which means that no image has one"


def check_loss(recipe: Recipe, parts: SplitImages) -> None:
    """Check that a loss written by the user returns one value for each image.

    Raises:
        UserError: if the call fails, or the result has a wrong shape.
    """
    if not is_own(recipe.objective):
        return
    channels = parts.images.pixels.shape[-1]
    pixels, t = Pixels.fixed(0.5, 0.5, channels), torch.full((2,), 0.5)
    # Initial weights and dropout must not change the caller's random state.
    with torch.random.fork_rng(devices=[]):
        model = build_model(recipe, channels)
        x0, eps = model.blank(2), torch.ones_like(model.blank(2))
        called = f"objective {type(recipe.objective).__name__}, called with x0 {tuple(x0.shape)} and t (2,),"
        try:
            loss = recipe.objective(model.with_blank_labels(2), x0, t, eps, pixels)
        except Exception as error:
            raise UserError(f"{called} fails: {type(error).__name__}: {error}") from error
    if not isinstance(loss, torch.Tensor) or loss.shape != (2,):
        raise UserError(
            f"{called} must return one loss for each image, (2,), got {describe_given(loss)}: average over "
            "channels, height and width, .mean((1, 2, 3))"
        )
