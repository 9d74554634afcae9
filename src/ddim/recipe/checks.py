"""Check a recipe as a whole: that its fields fit together, and that its run allows what a user asks for.

Each function takes no time and raises UserError with one sentence: what is wrong, what was given, what to do.
Single values are checked where they are built. The recipe of a stored run is read without these checks.
"""

from collections.abc import Iterator

import torch

from ddim.data.augment import LABELS
from ddim.diffusion.guidance import check_reach
from ddim.diffusion.loss import Consistency, Hybrid, Objective, Unweighted
from ddim.diffusion.schedules import check_schedule
from ddim.errors import UserError
from ddim.recipe.codec import dump, kind_name, walk_slots
from ddim.recipe.options import flatten
from ddim.recipe.recipe import Recipe


def check_recipe(recipe: Recipe) -> None:
    """Check that the network, the data, the loss, the schedules and the sampler of a recipe fit together.

    Raises:
        UserError: if they do not; the message names the fields.
    """
    check_schedule(recipe.schedule)
    check_schedule(recipe.sampling_schedule)
    net, data, name = recipe.net, recipe.data, kind_name(recipe.net)
    if recipe.augment.probability and net.augment != LABELS:
        raise UserError(f"net.augment must be {LABELS} if augment.probability is above 0, got {net.augment}")
    if data.labels and not net.takes("classes"):
        raise UserError(f"data.labels needs a network that takes classes, such as unet, got net {name}")
    if data.vectors is not None and not net.takes("vector"):
        raise UserError(f"data.vectors needs a network that takes vectors, such as unet, got net {name}")
    learned = getattr(recipe.sampler, "variance", "") == "learned"
    if net.outputs != 2 and (isinstance(recipe.objective, Hybrid) or learned):
        raise UserError("objective hybrid and sampler.variance learned need --net ddpm_unet --net.outputs 2")


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
    times = recipe.times(steps)
    if times.shape != (steps,) or (times.diff() >= 0).any() or not 0 < times[-1] <= times[0] <= 1:
        grid, rule = kind_name(recipe.grid), "decreasing times above 0 and at most 1"
        raise UserError(f"{steps} steps need {steps} {rule}, but grid {grid} has {times.tolist()}")
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
        raise UserError(f"{what} evaluates the network without a label: this run has data.unlabelled 0")


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
        old, new = (flatten(dump(getattr(recipe, name), named=True)) for recipe in (one, other))
        fields = (old | new).keys() - {"dropout", "classes", "vector"}
        if any(old.get(field) != new.get(field) for field in fields):
            return name
    return None


def _find_contradictions(recipe: Recipe, source: Recipe | None) -> Iterator[str]:
    loss, schedule, conditioning = recipe.objective, recipe.schedule, recipe.conditioning
    if source is not None and recipe.pixels != source.pixels:
        yield f"pixels must be the same as in the run of --from, {source.pixels}, got {recipe.pixels}"
    t = torch.linspace(0.01, 0.99, 9, dtype=torch.float64, device="cpu")
    if len(set(conditioning(t, schedule(t)).tolist())) == 1:
        yield f"conditioning {kind_name(conditioning)} is the same number at all noise levels: set another"
    noisiest = schedule(1.0)
    explodes = noisiest.alpha**2 + noisiest.sigma**2 > 2
    if isinstance(loss, Objective) and loss.finish and isinstance(loss.weight, Unweighted) and explodes:
        yield f"objective.finish grows with the noise of {kind_name(schedule)}: set --objective.finish 0"
    if isinstance(loss, Objective) and loss.guidance != 1 and not (loss.finish and recipe.report.guide):
        wanted = "objective.finish and report.guide above 0"
        yield f"objective.guidance {loss.guidance:g} needs {wanted}: set --objective.guidance 1"
    if isinstance(loss, Consistency) and schedule.entries:
        yield "objective consistency needs a continuous schedule: set --schedule cosine"
    if isinstance(loss, Consistency) and loss.guidance != 1:
        unguided = loss.guide is None and not recipe.data.conditional
        if unguided or source is None or source.is_student:
            yield f"objective.guidance {loss.guidance:g} needs labels or a guide, and `ddim distill`"
        elif other := find_other_meaning(source, recipe):
            yield f"objective.guidance {loss.guidance:g} needs the {other} of the run of --from"
    for part, numbers in recipe.shared_numbers.items():
        free = (recipe.sampling_schedule if part == "grid" else schedule).entries is None
        for path, slot in walk_slots(getattr(recipe, part), part):
            number, value = slot.name, slot.value
            if value != numbers.get(number, value) and not (free and number == "entries"):
                yield f"{path} must be {numbers[number]}, as in the schedule or the pixels, got {value}"
