"""Propose a smaller network or image size if a run will see few images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ddim.errors import UserError
from ddim.machine.runtime import Precision
from ddim.nn.unet import UNetSpec
from ddim.recipe.checks import check_recipe
from ddim.recipe.codec import list_fields, override
from ddim.recipe.named import FOR_SIZE, find_recipe
from ddim.recipe.recipe import Recipe
from ddim.recipe.user_parts import is_user_part
from ddim.training.loop import Training
from ddim.training.pace import format_duration, format_minutes
from ddim.training.start import time_image

ENOUGH = 40_000
"""A run that sees fewer images than this would gain from seeing more.

In the recorded run of the first version of `fast`, the validation error was 0.267 after 5,520 images, 0.225
after 42,576 images and 0.211 after 212,864 images (docs/results/fast.md).
"""

GAIN = 1.5
"""A smaller network or image size is proposed if it multiplies the images seen by at least this factor."""

USUAL, SMALL = 64, 32
"""Image sides in pixels that are proposed instead of larger sides.

The recipes were chosen for `USUAL`, and `SMALL` is half of `USUAL`.
"""


@dataclass(frozen=True)
class Alternative:
    """A changed recipe, with which a run sees more images in the same time.

    Attributes:
        option: the option that makes this change, such as "--size 64".
        recipe: the recipe with this option.
        factor: ratio of the images seen in the same time, with and without the option. It is computed from
            the processor time of one image; see `time_image`.
    """

    option: str
    recipe: Recipe
    factor: float


def list_alternatives(
    recipe: Recipe, images: int, channels: int, precision: Precision = "fp32"
) -> list[Alternative]:
    """Return changed recipes that are at least `GAIN` times as fast; none if the run sees `ENOUGH` images.

    Two changes are tried, and the speed of each is measured for a second or two. One change is a smaller
    size: 64 pixels if the images are larger, or 32 pixels if they have 33 to 64 pixels. The other change is
    half as many channels. It is tried only for a U-Net that is at least as wide as that of the recipe `fast`.

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
    """Return advice if a training on a CPU will see few images and a faster recipe is known; else "".

    Args:
        training: the training; the result is "" as long as its length in images is not known.
        speed: its training images per second.
    """
    recipe, total = training.recipe, training.plan.total
    # The alternatives are compared by processor time, which says little about an accelerator. They have other
    # networks or sizes, which do not fit weights of another run.
    if total is None or training.runtime.device != "cpu" or training.inherited:
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
    """Return a sentence about the speed of a run, and the number of images that it will see.

    Args:
        speed: training images per second.
        images: the number of training images that the run will see.
        length: the duration of the run as text, such as "40 minutes".
        train: the number of training images.
    """
    seen = f"{images:,} images in {length}, {format_passes(images, train)}"
    return f"about {format_speed(speed)} images/s: {seen}"


def format_speed(speed: float) -> str:
    """Return a speed as text, such as "0.31", "12" or "1,210"."""
    return f"{speed:,.0f}" if speed >= 99.5 else f"{speed:.2g}"


def format_passes(images: int, train: int) -> str:
    """Return the number of epochs as text, such as "4 passes over 6,480" (training images)."""
    passes = images / train
    shown = format_epochs(passes).removesuffix(".0") if passes < 10 else f"{passes:,.0f}"
    return f"{shown} pass{'' if shown == '1' else 'es'} over {train:,}"


def format_epochs(passes: float) -> str:
    """Return a number of epochs as text, such as "1,234.5" or "0.009". A small number does not become 0."""
    if 0 < passes < 0.001:
        return "less than 0.001"
    return f"{passes:.1g}" if 0 < passes < 0.1 else f"{passes:,.1f}"


def change_size(recipe: Recipe, size: tuple[int, int]) -> Recipe:
    """Return the recipe with another image size.

    The named recipes choose some fields by the size. These fields change too, as with --size, but not if the
    user has set them to another value.
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
    """Yield pairs of an option and the recipe with it, the smaller size first if the size is above 64."""
    smaller = _lower_size(recipe)
    narrower = _narrow(recipe)
    order = [smaller, narrower] if min(recipe.data.size) > USUAL else [narrower, smaller]
    yield from (found for found in order if found)


def _lower_size(recipe: Recipe) -> tuple[str, Recipe] | None:
    """Return the option for a smaller size with the same aspect ratio, and the recipe with this option.

    Return None if the size is 32 pixels or less already, or if the recipe is not valid at the smaller size.
    Also if the user wrote the network, which may take no other size.
    """
    if is_user_part(recipe.net):
        return None
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
    """Return the option for a U-Net with half of the channels, and the recipe with this option.

    Return None for other networks, and for a U-Net that is narrower than that of `fast`.
    """
    net = recipe.net
    # A U-Net that is narrower than that of `fast` was chosen by the user, or for a test.
    if not isinstance(net, UNetSpec) or max(net.widths) < max(UNetSpec().widths):
        return None
    widths = tuple(max(2, width // 2) for width in net.widths)
    option = f"--net.widths {','.join(map(str, widths))}"
    return option, replace(recipe, net=replace(net, widths=widths))
