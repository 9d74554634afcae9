"""Check the network, time sampling and loss that the user wrote by calling each once, before a training."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch

from ddim.data import SplitImages
from ddim.diffusion.denoiser import check_output
from ddim.diffusion.loss import make_memory
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.times import midpoints
from ddim.errors import UserError, describe_given
from ddim.nn.networks import UserNetwork
from ddim.recipe.own_parts import is_own
from ddim.recipe.recipe import Recipe, build_model


def check_own_parts(recipe: Recipe, parts: SplitImages) -> None:
    """Check the network, the time sampling and the loss of a recipe, if the user wrote them.

    Raises:
        UserError: if the call of one of them fails, or its result cannot be used.
    """
    _check_network(recipe, parts)
    _check_times(recipe)
    _check_loss(recipe, parts)


def _check_network(recipe: Recipe, parts: SplitImages) -> None:
    """Check that a network written by the user can be called as `UserNetwork` describes.

    Raises:
        UserError: if the call fails, the output has a wrong shape, or the network has no weights.
    """
    if not isinstance(recipe.net, UserNetwork):
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
            check_output(output, x, [recipe.net.outputs])
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


def _check_times(recipe: Recipe) -> None:
    """Check that a time sampling written by the user returns one time with noise for each image.

    Raises:
        UserError: if the call fails, the result has a wrong shape or type, or a time cannot be used.
    """
    times, schedule, uniform = recipe.objective.times, recipe.schedule, midpoints(recipe.optim.batch)
    if not (is_own(times) or is_own(recipe.objective)) or make_memory(recipe.objective):
        # A memory of past losses draws the times itself.
        return
    called = f"objective.times {type(times).__name__}, called with uniform ({len(uniform)},),"
    try:
        # Random numbers must not change the caller's random state.
        with torch.random.fork_rng(devices=[]):
            found = times(uniform, schedule)
    except Exception as error:
        raise UserError(f"{called} fails: {type(error).__name__}: {error}") from error
    if not isinstance(found, torch.Tensor) or found.shape != uniform.shape or not found.is_floating_point():
        kind = f" of {found.dtype}" if isinstance(found, torch.Tensor) else ""
        raise UserError(
            f"{called} must return times ({len(uniform)},), float64, got {describe_given(found)}{kind}"
        )
    # Time 0 can be used if the schedule has noise there, as a clipped schedule does.
    if not ((found >= 0) & (found <= 1)).all() or not (schedule(found).sigma > 0).all():
        raise UserError(
            f"{called} must return times in (0, 1], got times from {found.min():.4g} to {found.max():.4g}"
        )


def _check_loss(recipe: Recipe, parts: SplitImages) -> None:
    """Check that a loss written by the user returns one value with a gradient for each image.

    Raises:
        UserError: if the call fails, or the result has a wrong shape or no gradient.
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
            loss = recipe.objective.at(0.5, 0)(model.with_blank_labels(2), x0, t, eps, pixels)
        except Exception as error:
            raise UserError(f"{called} fails: {type(error).__name__}: {error}") from error
    if not isinstance(loss, torch.Tensor) or loss.shape != (2,):
        raise UserError(
            f"{called} must return one loss for each image, (2,), got {describe_given(loss)}: average over "
            "channels, height and width, .mean((1, 2, 3))"
        )
    if not loss.requires_grad:
        raise UserError(
            f"{called} must return a loss with a gradient, got one without: compute it from the output of "
            "the network, without detach() or torch.no_grad()"
        )
