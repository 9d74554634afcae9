"""Check a recipe as a whole: that its fields fit together, and that its run allows what a user asks for.

Each function is `check_...(recipe, ...)`, takes no time, and raises UserError with one sentence: what is
wrong, what was given, what to do. Single values are checked where they are built. The recipe of a stored run
is read without these checks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ddim.data.augment import LABELS
from ddim.diffusion.consistency import Consistency
from ddim.diffusion.guidance import check_reach
from ddim.diffusion.learned_weight import LearnedWeight
from ddim.diffusion.log_snr import check_schedule
from ddim.diffusion.loss import Objective
from ddim.diffusion.parameterisation import PredictsEDM
from ddim.diffusion.weighting import Unweighted
from ddim.errors import UserError
from ddim.nn.networks import NETWORKS
from ddim.recipe.codec import dump, list_fields, load_recipe
from ddim.recipe.kinds import kind_name
from ddim.recipe.plain_values import join_words, show_value
from ddim.recipe.recipe import PixelRule, Recipe
from ddim.runs.fitting import find_other_meaning

LARGEST = 2**16
"""The largest batch, in images. A batch must fit into memory; a larger number is probably a mistake."""


def check_recipe(recipe: Recipe) -> None:
    """Check the noise schedules of a recipe, and that its network, data, loss and sampler fit together.

    Raises:
        UserError: if the log-SNR of a schedule rises or is NaN, or if parts do not fit together; the message
            names the fields.
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
    check_recorded(recipe)
    check_recipe(recipe)
    for problem in _find_contradictions(recipe, source):
        raise UserError(problem)
    check_steps(recipe, recipe.steps)


def check_recorded(recipe: Recipe) -> None:
    """Check that a recipe does not change when it is written to a file and read again.

    The check finds parts that the user wrote and that change their own fields.

    Raises:
        UserError: if a field changes; the message names the field.
    """
    again = {name: value for name, _, value in list_fields(load_recipe(dump(recipe)))}
    for name, _, value in list_fields(recipe):
        if again[name] != value:
            raise UserError(
                f"{name} must not change when it is written to a file and read again, got {value!r}, then "
                f"{again[name]!r}"
            )


def _show_times(times: object) -> str:
    if not isinstance(times, torch.Tensor) or times.ndim != 1 or not len(times):
        return show_value(times)
    return f"{len(times)} times from {times[0]:.4g} to {times[-1]:.4g}"


def check_steps(recipe: Recipe, steps: int) -> None:
    """Check that the recipe's grid works with `steps` steps, at noise levels that training covers.

    Raises:
        UserError: if the grid cannot have so many times or breaks the contract of `Grid`, or a noise level is
            outside those of training.
    """
    times = recipe.grid(steps, recipe.sampling_schedule)
    if not (
        isinstance(times, torch.Tensor)
        and times.shape == (steps,)
        and (times.diff() < 0).all()
        and 0 < times[-1] <= times[0] <= 1
    ):
        raise UserError(
            f"grid {kind_name(recipe.grid)} must return a tensor of {steps} decreasing times in (0, 1], got "
            f"{_show_times(times)}"
        )
    levels = recipe.sampling_schedule(times)
    if recipe.sampled_on:
        check_reach(recipe.schedule, levels)


def check_unconditional(recipe: Recipe, what: str) -> None:
    """Check that the network was also trained without a class or vector.

    Args:
        recipe: the recipe of the run.
        what: the task that evaluates the network without a class or vector, in words for the message.

    Raises:
        UserError: if the run was trained with a class or a vector for every image.
    """
    if not recipe.data.unconditional:
        kind = "class" if recipe.data.labels else "vector"
        raise UserError(
            f"{what} evaluates the network without a {kind}, but this run was trained with a {kind} for "
            "every image (data.unlabelled 0)"
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


def _find_misfits(recipe: Recipe) -> Iterator[str]:
    net = recipe.net
    if recipe.augment.probability and net.augment != LABELS:
        yield (
            f"net.augment must be {LABELS}, the number of augmentation labels, if augment.probability is "
            f"above 0, got {net.augment}"
        )
    if recipe.data.labels and not net.takes_classes:
        possible = " or ".join(kind for kind, spec in NETWORKS.items() if spec().takes_classes)
        yield (
            f"data.labels needs a network that can be conditioned on classes, net {possible}, got "
            f"{kind_name(net)}"
        )
    if recipe.data.vectors is not None and not net.takes_vector:
        possible = " or ".join(kind for kind, spec in NETWORKS.items() if spec().takes_vector)
        yield (
            f"data.vectors needs a network that can be conditioned on a vector, net {possible}, got "
            f"{kind_name(net)}"
        )
    if net.multiple > 2 * max(recipe.data.size):
        height, width = recipe.data.size
        yield (
            f"net needs fewer stages, or a smaller patch, for data.size {height}x{width}: images would be "
            f"padded to multiples of {net.multiple}"
        )
    if recipe.is_student and recipe.schedule.entries:
        yield (
            "objective consistency needs a continuous schedule, such as cosine, got a table of "
            f"{recipe.schedule.entries} levels"
        )
    needs = {
        "objective hybrid": recipe.objective.needs_variance,
        "sampler.variance learned": recipe.sampler.needs_variance,
    }
    for name, needed in needs.items():
        if needed and net.outputs != 2:
            yield f"{name} needs a network that predicts a variance: --net ddpm_unet --net.outputs 2"


def _find_contradictions(recipe: Recipe, source: Recipe | None) -> Iterator[str]:
    # Pixels are checked first, because the other messages assume that they are the same.
    if source is not None and recipe.pixels != source.pixels:
        yield (
            f"pixels must be the same as in the run of --from, {_spell(source.pixels)}, got "
            f"{_spell(recipe.pixels)}: leave --pixels out, or --from"
        )
    known = [] if source is None else [found for _, found in _find_unequal(source)]
    for what, found in _find_unequal(recipe):
        # If these fields were unequal when the weights of --from were trained, they may stay unequal.
        if found not in known:
            options = " ".join(f"--{name} N" for name in found)
            yield (
                f"{join_words(found)} must be one number, {what}, got {join_words(found.values())}: set them "
                f"together, {options}"
            )
    t = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    if len(set(recipe.conditioning(t, recipe.schedule(t)).tolist())) == 1:
        yield (
            f"conditioning {kind_name(recipe.conditioning)} is the same number at all noise levels of "
            f"schedule {kind_name(recipe.schedule)}, so the network would not know the noise: set "
            "--conditioning log_snr"
        )
    if isinstance(recipe.objective, Consistency):
        yield from _find_unguided(recipe, recipe.objective, source)
    if isinstance(recipe.objective, Objective) and recipe.objective.finish:
        yield from _find_unfinished(recipe, recipe.objective)
    if recipe.optim.batch > LARGEST:
        yield f"optim.batch must be at most {LARGEST:,} to be trained, got {recipe.optim.batch:,}"
    outputs, classes = recipe.net.outputs, recipe.net.classes
    if outputs > 2:
        yield f"net.outputs must be 1, or 2 to predict a variance too, got {outputs}"
    if outputs == 2 and not recipe.objective.needs_variance:
        sampled = " --sampler.variance large" if recipe.sampler.needs_variance else ""
        yield (
            "net.outputs 2 predicts a variance, and only the loss hybrid trains it: set --net.outputs 2 "
            f"--objective hybrid to train it, or --net.outputs 1 --objective objective{sampled} to do without"
        )
    if source is None and recipe.data.vectors is None and recipe.net.vector > 0:
        yield (
            f"net.vector is {recipe.net.vector}, but without data.vectors the network is never trained on a "
            "vector: give --data.vectors FILE.csv, or --net.vector 0"
        )
    # The weights of a network with classes can be trained further without labels.
    if source is None and not recipe.data.labels and classes > 0:
        yield (
            f"net.classes is {classes}, but with data.labels no the network is never trained on a class: set "
            f"--data.labels yes to use the classes of the images, --data.labels clusters:{classes} to find "
            "classes, or --net.classes 0"
        )


def _find_unfinished(recipe: Recipe, loss: Objective) -> Iterator[str]:
    """Yield the reasons why a recipe cannot have `objective.finish`."""
    if isinstance(loss.weight, LearnedWeight):
        yield (
            "objective.weight learned weighs noise levels by their losses, which objective.finish "
            f"{loss.finish:g} replaces by others: set --objective.finish 0, or --objective.weight unweighted"
        )
    noisiest = recipe.schedule(1.0)
    variance = float(noisiest.alpha**2 + noisiest.sigma**2)
    if isinstance(loss.weight, Unweighted) and variance > 2:
        yield (
            f"objective.finish {loss.finish:g} is the squared error of the velocity, which grows with the "
            f"noise of schedule {kind_name(recipe.schedule)}: set --objective.weight edm_weight or min_snr, "
            "or --objective.finish 0"
        )


def _find_unguided(recipe: Recipe, loss: Consistency, source: Recipe | None) -> Iterator[str]:
    """Yield the reasons why a student cannot learn the guidance of its teacher, the run `source`."""
    asked = f"objective.guidance {loss.guidance:g}"
    if loss.guidance == 1:
        if loss.guide is not None or loss.interval is not None:
            unused = "guide" if loss.interval is None else "interval"
            yield (
                f"objective.{unused} has no effect with {asked}: set --objective.{unused} none, or "
                "--objective.guidance 2"
            )
        return
    if source is None:
        yield (
            f"{asked} trains a student of a guided run, and no run is given: use `ddim distill RUN "
            f"--guidance {loss.guidance:g}`, or set --objective.guidance 1"
        )
        return
    if source.is_student:
        fields = {"guidance": None, "interval": loss.interval, "guide": loss.guide}
        off = " ".join(
            f"--objective.{name} {'1' if name == 'guidance' else 'none'}"
            for name, value in fields.items()
            if name == "guidance" or value is not None
        )
        yield f"{asked} guides the run of --from, which is a student itself: set {off}"
    if other := find_other_meaning(source, recipe):
        yield f"{asked} needs the {other} of the run of --from, got another {other}: leave out --{other}"
    if loss.guide is None and not recipe.data.conditional:
        yield (
            f"{asked} without objective.guide guides by labels, and this student is trained without labels: "
            "name a guide, such as --objective.guide @guide, or keep the labels"
        )


def _find_unequal(recipe: Recipe) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield each number that several fields must share but do not: its description, and values by field."""
    values = {name: value for name, _, value in list_fields(recipe)}
    for what, names in _list_shared_numbers(recipe):
        found = {name: values[name] for name in names if name in values}
        if len(set(found.values())) > 1:
            yield what, found


def _list_shared_numbers(recipe: Recipe) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each number that several fields must share: its description, and the names of the fields.

    Some of these fields may not exist in this recipe.
    """
    # A continuous schedule has no table, so the entries of other fields need not agree.
    if recipe.schedule.entries:
        walked = () if recipe.sampled_on else ("grid.entries",)
        along = ("schedule.entries", "conditioning.entries", "objective.times.entries")
        yield "the entries of the table", along + walked
    if recipe.sampled_on and recipe.sampled_on.entries:
        yield "the entries of the table", ("sampled_on.entries", "grid.entries")
    if isinstance(recipe.predicts, PredictsEDM):
        measured = ("pixels.std",) if recipe.pixels.deviation else ()
        others = ("predicts.sigma_data", "objective.weight.sigma_data", "objective.sigma_data")
        yield "the deviation of the images", measured + others


def _spell(pixels: PixelRule) -> str:
    """Return the field `pixels` of a recipe as text, such as "measured, std 1.0"."""
    return ", ".join([kind_name(pixels), *(f"{name} {value}" for name, value in vars(pixels).items())])
