"""Say what a run of this speed will bring, and which smaller network or size would be wiser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ddim.errors import UserError
from ddim.nn.runtime import Precision
from ddim.nn.unet import UNetSpec
from ddim.runs.codec import list_fields, override
from ddim.runs.named_recipes import FOR_SIZE, find_recipe
from ddim.runs.recipe import Recipe
from ddim.runs.recipe_checks import check_recipe
from ddim.training.loop import Training
from ddim.training.pace import format_duration, format_minutes
from ddim.training.start import time_image

ENOUGH = 40_000
"""A run that sees fewer images than this would gain from seeing more.

The validation error of the recorded run of `fast` fell from 0.267 to 0.225 over its first 42,576 images, and
to 0.211 over the next 170,000 (docs/fast.md).
"""

GAIN = 1.5
"""A smaller network or size is proposed if the same time then holds at least this many times the images."""

USUAL, SMALL = 64, 32
"""Sides in pixels to which a larger size is lowered: the size for which recipes were chosen, and its half."""


@dataclass(frozen=True)
class Alternative:
    """A recipe of which the same minutes hold more images.

    Attributes:
        option: what to add to the command, such as "--size 64".
        recipe: the recipe with this option.
        factor: how many times the images it sees; the ratio of the processor times of `time_image`.
    """

    option: str
    recipe: Recipe
    factor: float


def list_alternatives(
    recipe: Recipe, images: int, channels: int, precision: Precision = "fp32"
) -> list[Alternative]:
    """Return cheaper recipes if a run sees few images (`ENOUGH`), each at least `GAIN` times as fast.

    The cost of each is measured for a second or two. A size above 64 pixels is lowered to 64, and 64 to 32.
    A U-Net of `fast` gets half of its channels.

    Args:
        recipe: the recipe of the run.
        images: the number of training images that the run will see.
        channels: number of channels of the images.
        precision: the precision of the run.
    """
    cheaper = list(_list_cheaper(recipe)) if images < ENOUGH else []
    if not cheaper:
        return []
    cost = time_image(recipe, channels, precision)
    costs = [time_image(each, channels, precision) for _, each in cheaper]
    found = [Alternative(*each, cost / lower) for each, lower in zip(cheaper, costs, strict=True)]
    return [each for each in found if each.factor >= GAIN]


def advise(training: Training, speed: float) -> str:
    """Return a sentence if a training on a CPU will see few images and a cheaper recipe is known; else "".

    Args:
        training: the training, whose length in images is known.
        speed: its training images per second.
    """
    recipe, total = training.recipe, training.plan.total
    # The alternatives are compared by processor time, which says little about an accelerator.
    if total is None or training.runtime.device != "cpu":
        return ""
    channels, precision = training.model.shape.channels, training.runtime.precision
    found = list_alternatives(recipe, total, channels, precision)
    if not found:
        return ""
    length = f"about {format_duration(total / speed)}" if recipe.images else format_minutes(recipe.minutes)
    outlook = describe_outlook(speed, total, length, len(training.split.train))
    return f"{outlook}; {describe_alternative(found[0])}"


def describe_alternative(found: Alternative) -> str:
    """Return the end of a sentence, such as "about 3.9 times as many with --size 64"."""
    return f"about {found.factor:.2g} times as many with {found.option}"


def describe_outlook(speed: float, images: int, length: str, train: int) -> str:
    """Return a sentence about what a run will see.

    Args:
        speed: training images per second.
        images: the number of training images that the run will see.
        length: the duration of the run as text, such as "40 minutes".
        train: the number of training images.
    """
    return f"about {speed:.2g} images/s: {images:,} images in {length}, {format_passes(images, train)}"


def format_passes(images: int, train: int) -> str:
    """Return how often each training image is seen, as text: "4 passes over 6,480"."""
    passes = images / train
    shown = f"{passes:.1f}".removesuffix(".0") if passes < 10 else f"{passes:,.0f}"
    return f"{shown} pass{'' if shown == '1' else 'es'} over {train:,}"


def change_size(recipe: Recipe, size: tuple[int, int]) -> Recipe:
    """Return a recipe for another size; fields that follow from the size change too, as with --size.

    Fields to which the user has given another value keep it.
    """
    fields = {"data.size": size}
    if recipe.name in FOR_SIZE:
        before = _values(find_recipe(recipe.name, recipe.data.size))
        after = _values(find_recipe(recipe.name, size))
        now = _values(recipe)
        fields |= {
            name: value
            for name, value in after.items()
            if value != before.get(name) and now.get(name) == before.get(name)
        }
    return override(recipe, fields)


def _values(recipe: Recipe) -> dict[str, object]:
    return {name: value for name, _, value in list_fields(recipe)}


def _list_cheaper(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Yield options with the recipes that they give, the size first if it is above 64 pixels."""
    smaller = _lower_size(recipe)
    narrower = _narrow(recipe)
    order = [smaller, narrower] if min(recipe.data.size) > USUAL else [narrower, smaller]
    yield from (found for found in order if found)


def _lower_size(recipe: Recipe) -> tuple[str, Recipe] | None:
    """Return the option and the recipe of a smaller size of the same shape; None if there is none."""
    shorter = min(recipe.data.size)
    side = USUAL if shorter > USUAL else SMALL
    if shorter <= side:
        return None
    height, width = (round(length * side / shorter) for length in recipe.data.size)
    option = f"--size {height}" if height == width else f"--size {height}x{width}"
    try:
        changed = change_size(recipe, (height, width))
        check_recipe(changed)
    except UserError:
        return None
    return option, changed


def _narrow(recipe: Recipe) -> tuple[str, Recipe] | None:
    """Return the option and the recipe of a U-Net with half of the channels; None for other networks."""
    net = recipe.net
    # Widths below those of `fast` were chosen by the user, or for a test.
    if not isinstance(net, UNetSpec) or max(net.widths) < max(UNetSpec().widths):
        return None
    widths = tuple(max(2, width // 2) for width in net.widths)
    option = f"--net.widths {','.join(map(str, widths))}"
    return option, replace(recipe, net=replace(net, widths=widths))
