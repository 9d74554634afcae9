"""Fields of a recipe that contradict each other, or any machine: refused where training begins or is planned.

Such a recipe trains without a word, and not what it says. One that is stored is read all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ddim.diffusion.loss import Hybrid
from ddim.diffusion.parameterisation import PredictsEDM
from ddim.diffusion.schedules import Linear
from ddim.errors import UserError
from ddim.runs.codec import flat
from ddim.runs.recipe import NAMES, Fixed, Measured, Recipe

LARGEST = 2**16
"""Images of a batch, which is drawn at once, at most: many times those of any published diffusion model."""


def check(recipe: Recipe, source: Recipe | None = None) -> None:
    """UserError for a recipe whose fields contradict each other: which, and how to set them together.

    `source` is the recipe of the run from whose weights it starts, where there is one.
    """
    # First, for what else is said of pixels is said of these.
    if source is not None and recipe.pixels != source.pixels:
        raise UserError(
            f"pixels must be those in which the weights of --from were trained, {_said(source.pixels)}, got "
            f"{_said(recipe.pixels)}: leave --pixels out, or --from"
        )
    known = [] if source is None else [found for _, found in _unlike(source)]
    for what, found in _unlike(recipe):
        # What a run was trained with, one that goes on from its weights needs.
        if found not in known:
            raise UserError(
                f"{_listed(found)} must be one number, {what}, got {_listed(found.values())}: set them "
                f"together, {' '.join(f'--{name} N' for name in found)}"
            )
    outputs, classes = recipe.net.outputs, recipe.net.classes
    learned = getattr(recipe.sampler, "variance", "") == "learned"
    sampled = " --sampler.variance large" if learned else ""
    batch = recipe.optim.batch
    rules = (
        (batch > LARGEST, f"optim.batch must be at most {LARGEST:,} to be trained, got {batch:,}"),
        (outputs > 2, f"net.outputs must be 1, or 2 to predict a variance too, got {outputs}"),
        (
            outputs == 2 and not isinstance(recipe.objective, Hybrid),
            "net.outputs 2 predicts a variance, which objective hybrid alone trains: set both, --net.outputs "
            f"2 --objective hybrid, or neither, --net.outputs 1 --objective objective{sampled}",
        ),
        (
            # Weights of a network that was told of classes can be trained on without.
            source is None and not recipe.data.labels and classes > 0,
            f"net.classes {classes} and data.labels no give a network classes that it is never told of: "
            "--data.labels yes counts those of the images, and --net.classes 0 does without",
        ),
    )
    for wrong, said in rules:
        if wrong:
            raise UserError(said)


def _unlike(recipe: Recipe) -> Iterator[tuple[str, dict[str, object]]]:
    """What is one number and is not, and the fields that hold it with their values."""
    fields = {name: value for name, _, value in flat(recipe)}
    for what, names in _alike(recipe):
        found = {name: fields[name] for name in names if name in fields}
        if len(set(found.values())) > 1:
            yield what, found


def _alike(recipe: Recipe) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What is one number, and the fields that hold it in recipes that have them."""
    # Elsewhere than along a table, entries are times like any others.
    if isinstance(recipe.schedule, Linear):
        walked = () if recipe.sampled_on else ("grid.entries",)
        along = ("schedule.entries", "conditioning.entries", "objective.times.entries")
        yield "the entries of the table", along + walked
    if isinstance(recipe.sampled_on, Linear):
        yield "the entries of the table", ("sampled_on.entries", "grid.entries")
    if isinstance(recipe.predicts, PredictsEDM):
        # What deviation images of fixed pixels have is the user's to know.
        measured = ("pixels.std",) if isinstance(recipe.pixels, Measured) else ()
        told = ("predicts.sigma_data", "objective.weight.sigma_data")
        yield "the deviation of the images", measured + told


def _said(pixels: Measured | Fixed) -> str:
    """Pixels as options, without the dashes: measured, std 1.0."""
    return ", ".join([NAMES[type(pixels)], *(f"{name} {value}" for name, value in vars(pixels).items())])


def _listed(items: Iterable[object]) -> str:
    *most, last = map(str, items)
    return f"{', '.join(most)} and {last}"
