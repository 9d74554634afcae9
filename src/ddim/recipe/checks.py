"""Check a recipe as a whole: that its fields fit together, and that its run allows what a user asks for.

Each function takes no time and raises UserError with one sentence: what is wrong, what was given, what to do.
Single values are checked where they are built. The recipe of a stored run is read without these checks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ddim.data.augment import LABELS
from ddim.diffusion.guidance import check_reach
from ddim.diffusion.loss import Consistency, Objective, Unweighted
from ddim.diffusion.schedules import check_schedule
from ddim.errors import UserError
from ddim.recipe.codec import dump, kind_name, list_fields
from ddim.recipe.recipe import Recipe


def check_recipe(recipe: Recipe) -> None:
    """Check that the network, the data, the loss, the schedules and the sampler of a recipe fit together.

    Raises:
        UserError: if they do not; the message names the fields.
    """
    check_schedule(recipe.schedule)
    check_schedule(recipe.sampling_schedule)
    for problem in _find_misfits(recipe):
        raise UserError(problem)


def check_training(recipe: Recipe, source: Recipe | None = None) -> None:
    """Check that a recipe can be trained and that its fields do not contradict each other.

    Args:
        recipe: the recipe of the new run.
        source: the recipe of the run whose weights the new run starts from, if there is one.

    Raises:
        UserError: if the recipe cannot be trained; the message names the fields and how to set them.
    """
    check_recipe(recipe)
    for problem in _find_contradictions(recipe, source):
        raise UserError(problem)
    check_steps(recipe, recipe.steps)


def check_steps(recipe: Recipe, steps: int) -> None:
    """Check that the recipe's grid works with `steps` steps, at noise levels that training covers.

    Raises:
        UserError: if the grid cannot have so many times, the times do not decrease in (0, 1], or a noise
            level is outside those of training.
    """
    times = recipe.grid(steps, recipe.sampling_schedule)
    if times.shape != (steps,) or (times.diff() >= 0).any() or not 0 < times[-1] <= times[0] <= 1:
        raise UserError(
            f"grid {kind_name(recipe.grid)} must return {steps} decreasing times in (0, 1], got {times}"
        )
    if recipe.sampled_on:
        check_reach(recipe.schedule, recipe.sampling_schedule(times))


def check_unconditional(recipe: Recipe, what: str) -> None:
    """Check that the network was also trained without a class or vector.

    Args:
        recipe: the recipe of the run.
        what: the task that evaluates the network without a class or vector, in words for the message.

    Raises:
        UserError: if the run was trained with a class or a vector for every image.
    """
    if not recipe.data.unconditional:
        raise UserError(
            f"{what} evaluates the network without a label, but this run was trained with a label for every "
            "image (data.unlabelled 0)"
        )


def check_diffusion_model(recipe: Recipe, demand: str, run: str = "this run") -> None:
    """Check that a run is a diffusion model.

    Args:
        recipe: the recipe of the run.
        demand: what must be a diffusion model, with its verb, such as "a variation needs".
        run: the name of the run in the message.

    Raises:
        UserError: if the run is a distilled student.
    """
    if recipe.is_student:
        raise UserError(f"{demand} a diffusion model, but {run} is a distilled student: name its teacher")


def find_other_meaning(one: Recipe, other: Recipe) -> str | None:
    """Return the first field by which two recipes give the same weights another meaning; None without one.

    Dropout and the numbers of classes and of vector entries are not compared.
    """
    for name in "net", "schedule", "predicts", "conditioning":
        parts = [dump(getattr(recipe, name), named=True) for recipe in (one, other)]
        for ignored in ("dropout", "classes", "vector"):
            for part in parts:
                part.pop(ignored, None)
        if parts[0] != parts[1]:
            return name
    return None


def _find_misfits(recipe: Recipe) -> Iterator[str]:
    net, data, name = recipe.net, recipe.data, kind_name(recipe.net)
    if recipe.augment.probability and net.augment != LABELS:
        yield f"net.augment must be {LABELS} if augment.probability is above 0, got {net.augment}"
    if data.labels and not net.takes_classes:
        yield f"data.labels needs a network that takes classes, such as unet or dit, got net {name}"
    if data.vectors is not None and not net.takes_vector:
        yield f"data.vectors needs a network that takes vectors, such as unet or dit, got net {name}"
    if net.outputs != 2 and (recipe.objective.needs_variance or recipe.sampler.needs_variance):
        yield (
            "objective hybrid and sampler.variance learned need a network that predicts a variance: "
            "--net ddpm_unet --net.outputs 2"
        )


def _find_contradictions(recipe: Recipe, source: Recipe | None) -> Iterator[str]:
    # Pixels are checked first, because the other messages assume that they are the same.
    if source is not None and recipe.pixels != source.pixels:
        yield (
            f"pixels must be the same as in the run of --from, {source.pixels}, got {recipe.pixels}: leave "
            "--pixels out, or --from"
        )
    yield from _find_unequal_numbers(recipe)
    t = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    if len(set(recipe.conditioning(t, recipe.schedule(t)).tolist())) == 1:
        yield (
            f"conditioning {kind_name(recipe.conditioning)} is the same number at all noise levels of "
            f"schedule {kind_name(recipe.schedule)}, so the network would not know the noise: set "
            "--conditioning log_snr"
        )
    if recipe.net.outputs == 2 and not recipe.objective.needs_variance:
        yield "net.outputs 2 predicts a variance, and only the loss hybrid trains it: set --objective hybrid"
    # The weights of a network with classes or vectors can be trained further without labels.
    if source is None and not recipe.data.conditional and (recipe.net.classes or recipe.net.vector):
        yield (
            "net.classes and net.vector must be 0 without data.labels and data.vectors: the network would "
            "never be trained on a label"
        )
    yield from _find_unfit_losses(recipe, source)


def _find_unfit_losses(recipe: Recipe, source: Recipe | None) -> Iterator[str]:
    loss, noisiest = recipe.objective, recipe.schedule(1.0)
    explodes = noisiest.alpha**2 + noisiest.sigma**2 > 2
    if isinstance(loss, Objective) and loss.finish and isinstance(loss.weight, Unweighted) and explodes:
        yield (
            f"objective.finish {loss.finish:g} is the squared error of the velocity, which grows with the "
            f"noise of schedule {kind_name(recipe.schedule)}: set --objective.finish 0"
        )
    if not isinstance(loss, Consistency):
        return
    if recipe.schedule.entries:
        yield "objective consistency needs a continuous schedule: set --schedule cosine"
    if loss.guidance == 1:
        return
    asked = f"objective.guidance {loss.guidance:g}"
    unguided = loss.guide is None and not recipe.data.conditional
    if source is None or source.is_student or unguided:
        yield f"{asked} trains a student of a run with labels or a guide: use `ddim distill`"
    elif other := find_other_meaning(source, recipe):
        yield f"{asked} needs the {other} of the run of --from, got another {other}: leave out --{other}"


def _find_unequal_numbers(recipe: Recipe) -> Iterator[str]:
    """Yield each number of a part that differs from that of the schedule or the pixels."""
    for name, numbers in recipe.shared_numbers.items():
        schedule = recipe.sampling_schedule if name == "grid" else recipe.schedule
        for path, _, value in list_fields(getattr(recipe, name), name):
            wanted = numbers.get(path.rpartition(".")[2], value)
            if value != wanted and (getattr(schedule, "entries", None) or not path.endswith(".entries")):
                yield f"{path} must be {wanted}, as in the schedule or the pixels, got {value}: leave it out"
