"""Plan the trials of a sweep: the values that fields take, and the recipe of each trial.

Values are text, as `ddim train` takes them: lists such as ``l1,mse``, and ranges such as ``1e-4..1e-2``.
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ddim.data.open import absolute_source, find_source
from ddim.errors import UserError, check_count
from ddim.metrics.catalogue import DEFAULT
from ddim.metrics.features import load_network
from ddim.recipe.checks import check_training
from ddim.recipe.codec import dump
from ddim.recipe.options import option_text, split_list
from ddim.recipe.recipe import Recipe
from ddim.training.request import choose_recipe

NUMBER = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?"
"""A pattern of the ends of a range."""

Choice = dict[str, str]
"""One value for each field of a sweep."""

Space = Mapping[str, CategoricalDistribution | FloatDistribution | IntDistribution]
"""The values that each field can take, keyed by field path; a range above 0 is uniform in its logarithm."""


def values_text(values: object) -> str:
    """Return the values of a field as the text of an option; a text stays as it is.

    Example:
        >>> values_text([0.001, 0.003]), values_text([(16, 32), (32, 64)]), values_text((16, 32))
        ('0.001,0.003', '[16,32],[32,64]', '[16,32]')
    """
    if isinstance(values, Iterable) and not isinstance(values, str | tuple):
        return ",".join(values_text(tuple(each) if isinstance(each, list) else each) for each in values)
    return f"[{option_text(values)}]" if isinstance(values, tuple) else option_text(values)


def parse_space(fields: Mapping[str, str]) -> Space:
    """Parse the values of fields, such as {"schedule": "cosine,linear", "optim.lr": "1e-4..1e-2"}.

    A value in brackets, such as [16,32], is one value.

    Raises:
        UserError: if the ends of a range are in the wrong order.
    """
    space: dict[str, Any] = {}
    for name, text in fields.items():
        ends = re.fullmatch(rf"({NUMBER})\.\.({NUMBER})", text)
        if ends is None:
            space[name] = CategoricalDistribution(split_list(text))
            continue
        low, high = map(float, ends.groups())
        if low >= high:
            raise UserError(f"{name} must have the smaller end of its range first, got {text}")
        if re.search("[.e]", ends[1] + ends[2], re.IGNORECASE):
            space[name] = FloatDistribution(low, high, log=low > 0)
        else:
            space[name] = IntDistribution(int(low), int(high), log=low > 0)
    return space


def value_text(value: object) -> str:
    """Return one value as text; six significant digits keep names and tables short."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def choose_values(space: Space, count: int | None = None) -> list[Choice]:
    """Return every combination of values, the last field changing fastest, or `count` random ones.

    Random combinations are distinct if all fields are lists.

    Raises:
        UserError: if all combinations are wanted, and a field is a range.
    """
    lists = [each.choices for each in space.values() if isinstance(each, CategoricalDistribution)]
    if len(lists) == len(space):
        every = [dict(zip(space, map(str, values), strict=True)) for values in itertools.product(*lists)]
        if count is None:
            return every
        drawn = np.random.default_rng(0).choice(len(every), min(count, len(every)), replace=False)
        return [every[k] for k in drawn]
    if count is None:
        raise UserError("a range needs random or search, a number of trials; or list its values")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    asked = [study.ask(dict(space)) for _ in range(count)]
    return [{name: value_text(value) for name, value in each.params.items()} for each in asked]


def plan_trials(request: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the recipes of the trials of a new sweep as JSON, keyed by the name of the trial; check them.

    In a search, all trials have the same recipe, with the first values. When a worker takes a trial, Optuna
    proposes other values of the fields that vary.

    Args:
        request: the arguments of `ddim.sweep` that choose trials; those that were not given are left out.

    Raises:
        UserError: if a field, a value or a combination is invalid, or images are missing.
    """
    for name in {"search", "random"} & request.keys():
        check_count(name, request[name])
    space, search, repeats = parse_space(request["fields"]), request.get("search"), request.get("repeats", 1)
    if "evaluate" in request:
        load_network(DEFAULT)  # a missing package is an error now, and not after the first training
    if search:
        choices = [{name: _pick_end(each, k) for name, each in space.items()} for k in (0, -1)]
    else:
        choices = choose_values(space, request.get("random"))
    recipes = [_build_recipe(request, choice) for choice in choices]
    for recipe in recipes:
        check_training(recipe)
        find_source(recipe.data.source)
    if search:
        if _describe_error(recipes[0], request) != _describe_error(recipes[1], request):
            what = "images, their split and the seed; without evaluate also schedule, pixels and report"
            raise UserError(f"a search cannot compare trials that differ in {what}")
        return {f"{k:0{len(str(search))}}": dump(recipes[0]) for k in range(1, search + 1)}
    trials, width = {}, len(str(len(recipes) * repeats))
    for choice, recipe in zip(choices, recipes, strict=True):
        for seed in range(recipe.seed, recipe.seed + repeats):
            name = _name_trial(f"{len(trials) + 1:0{width}}", choice, seed)
            trials[name] = dump(replace(recipe, seed=seed))
    return trials


def _describe_error(recipe: Recipe, request: Mapping[str, Any]) -> object:
    """Return what decides whether errors are comparable: the images and, for validation errors, the units.

    On other images, or in other units, an error may be smaller without a better model.
    """
    data = recipe.data
    images = (data.source, data.size, data.channels, data.validation, data.split_seed, recipe.seed)
    units = (recipe.schedule, recipe.pixels, recipe.report)
    return images if "evaluate" in request else (images, units)


def _pick_end(values: Any, index: int) -> str:  # noqa: ANN401 (a distribution of `Space`)
    """Return the first or the last value of a list or a range."""
    ends = values.choices if isinstance(values, CategoricalDistribution) else (values.low, values.high)
    return value_text(ends[index])


def _build_recipe(request: Mapping[str, Any], choice: Choice) -> Recipe:
    """Return the recipe that `ddim train` would use; its paths are absolute, as workers may run elsewhere."""
    budget = {name: request[name] for name in ("images", "minutes") if name in request}
    recipe = choose_recipe(request.get("recipe"), request.get("data"), {**budget, **choice})
    data = recipe.data
    vectors = data.vectors and absolute_source(data.vectors)
    return replace(recipe, data=replace(data, source=absolute_source(data.source), vectors=vectors))


def _name_trial(number: str, choice: Choice, seed: int) -> str:
    """Return a folder name for a trial, such as 03-l1-image-seed1."""
    words = [number, *choice.values(), *([] if "seed" in choice else [f"seed{seed}"])]
    kept = (re.sub(r"[^\w.]", "-", word).strip("-.") for word in words)
    return "-".join(word for word in kept if word)[:80]
