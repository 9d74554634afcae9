"""The trials of a sweep: the values that each field takes, their combinations, and the recipe of each.

Values are text, as `ddim train` takes them: lists such as ``l1,mse``, and ranges such as ``1e-4..1e-2``. This
module imports neither torch nor Optuna.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ddim.errors import UserError
from ddim.evaluation.conditions import UNITS, VALIDATION_FIELDS
from ddim.recipe.options import option_text

if TYPE_CHECKING:
    from ddim.recipe.recipe import Recipe

INSIDE = 0.314159
"""A quantile whose value is not a whole number in common ranges; 0.3 of 0.0..10.0 would be one."""

Choice = dict[str, str]
"""One value for each field of a sweep."""


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: its name, its values of the varied fields, and its complete recipe as JSON.

    In a search, `fields` and `recipe` are None until a worker takes the trial and Optuna proposes values.
    """

    name: str
    fields: Choice | None
    recipe: dict[str, Any] | None


@dataclass(frozen=True)
class Range:
    """A range of numbers from `low` to `high`, with only whole numbers if `whole` is true.

    The distribution is log-uniform if `low` > 0, else uniform.
    """

    low: float
    high: float
    whole: bool

    @property
    def log(self) -> bool:
        """Whether the distribution is log-uniform."""
        return self.low > 0

    def at(self, u: float) -> str:
        """Return the value at the quantile u in [0, 1)."""
        # Each whole number k stands for the interval from k - 0.5 to k + 0.5.
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        value = low * (high / low) ** u if self.log else low + (high - low) * u
        return self.text(min(max(value, self.low), self.high))

    def text(self, value: float) -> str:
        """Return a value as text; six significant digits keep names and tables short."""
        return str(round(value)) if self.whole else f"{value:.6g}"


Space = Mapping[str, Sequence[str] | Range]
"""The values that each field can take, keyed by field path."""


def values_text(values: object) -> str:
    """Return the values of a field as the text of an option; a text stays as it is.

    Example:
        >>> values_text([0.001, 0.003]), values_text([(16, 32), (32, 64)]), values_text((16, 32))
        ('0.001,0.003', '[16,32],[32,64]', '[16,32]')
    """
    several = isinstance(values, Iterable) and not isinstance(values, str | tuple)
    return ",".join(map(_value_text, values)) if several else _value_text(values)


def _value_text(value: object) -> str:
    return f"[{option_text(value)}]" if isinstance(value, list | tuple) else option_text(value)


def parse_space(fields: Mapping[str, str]) -> Space:
    """Parse the values of fields, such as {"schedule": "cosine,linear", "optim.lr": "1e-4..1e-2"}.

    Raises:
        UserError: if a range is malformed.
    """
    # In ../a,../b the dots are parts of paths, not of a range.
    return {
        name: _parse_range(name, text)
        if ".." in text and not re.search(r"[,/\\]", text)
        else split_values(text)
        for name, text in fields.items()
    }


def split_values(text: str) -> list[str]:
    """Return the parts of a text between commas; a value in brackets, such as [16,32], is one part."""
    return [part.strip() for part in re.split(r",(?![^\[]*\])", text)]


def _parse_range(name: str, text: str) -> Range:
    low, _, high = text.partition("..")
    try:
        ends = float(low), float(high)
    except ValueError:
        ends = 0.0, 0.0
    if not ends[0] < ends[1] < float("inf"):
        raise UserError(f"{name} must be a range such as 1e-4..1e-2, the smaller end first, got {text}")
    return Range(*ends, whole=all(re.fullmatch(" *[+-]?[0-9]+ *", end) for end in (low, high)))


def is_varied(values: Sequence[str] | Range) -> bool:
    """Return whether a field takes several values."""
    return isinstance(values, Range) or len(values) > 1


def list_combinations(space: Space) -> list[Choice]:
    """Return every combination; the last field changes fastest.

    Raises:
        UserError: if a field is a range, which has infinitely many values.
    """
    lists = []
    for name, values in space.items():
        if isinstance(values, Range):
            raise UserError(f"{name} is a range: give random or search, a number of trials, or list values")
        lists.append(values)
    return [dict(zip(space, choice, strict=True)) for choice in itertools.product(*lists)]


def draw_combinations(space: Space, count: int, seed: int) -> list[Choice]:
    """Return `count` random combinations; they are distinct if all fields are lists.

    Raises:
        UserError: if all fields are lists with fewer than `count` combinations.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    if any(isinstance(values, Range) for values in space.values()):
        return [{name: _at(each, generator.random()) for name, each in space.items()} for _ in range(count)]
    every = list_combinations(space)
    if count > len(every):
        raise UserError(f"random must be at most {len(every)}, the number of combinations, got {count}")
    return [every[k] for k in generator.choice(len(every), count, replace=False)]


def probe_space(space: Space) -> list[Choice]:
    """Return three combinations that show whether a search can work: the lowest, an inner and the highest.

    The inner values of ranges are not whole numbers, because a field that needs these may accept both ends.
    """
    lowest, highest = ({name: _at(each, u) for name, each in space.items()} for u in (0.0, 1 - 1e-12))
    ranges = {name: each for name, each in space.items() if isinstance(each, Range) and not each.whole}
    return [lowest, lowest | {name: each.at(INSIDE) for name, each in ranges.items()}, highest]


def _at(values: Sequence[str] | Range, u: float) -> str:
    return values.at(u) if isinstance(values, Range) else values[int(u * len(values))]


# Recipes


def plan_trials(request: Mapping[str, Any]) -> tuple[Recipe, list[Trial]]:
    """Return the recipe that all trials share, and the trials, after checking their recipes and images.

    Args:
        request: the arguments of `ddim.sweep` that choose trials; those that were not given are left out.

    Raises:
        UserError: if a field, a value or a combination is invalid, or images are missing.
    """
    from ddim.data.open import find_source
    from ddim.recipe.codec import dump
    from ddim.training.request import choose_recipe

    recipe, data, search = request.get("recipe"), request.get("data"), request.get("search")
    space, repeats, draws = parse_space(request["fields"]), request.get("repeats", 1), request.get("random")
    if not space and repeats == 1:
        raise UserError("a sweep needs fields with the values to try, such as schedule, or repeats")
    budget = {name: request[name] for name in ("images", "minutes") if name in request}
    images = {name: text for name, text in request["fields"].items() if name.startswith("data.")}
    fixed = {name: text for name, text in images.items() if not is_varied(space[name])}
    base = _name_places(choose_recipe(recipe, data, budget | fixed))
    if search:
        _check_search(request)
        recipes = [combine(base, None, choice) for choice in probe_space(space)]
        trials = [Trial(f"{k:0{len(str(search))}}", None, None) for k in range(1, search + 1)]
    else:
        choices = draw_combinations(space, draws, base.seed) if draws else list_combinations(space)
        recipes, trials, width = [], [], len(str(len(choices) * repeats))
        for choice in choices:
            recipes.append(combine(recipe, data, budget | choice))
            for k in range(repeats):
                one = replace(recipes[-1], seed=recipes[-1].seed + k)
                name = _name_trial(f"{len(trials) + 1:0{width}}", choice, one.seed)
                trials.append(Trial(name, choice, dump(one)))
    for source in {recipe.data.source for recipe in recipes}:
        find_source(source)
    return base, trials


def find_incomparable(request: Mapping[str, Any]) -> str | None:
    """Return a field that varies between trials and makes their errors or KIDs incomparable, or None."""
    for name, values in parse_space(request["fields"]).items():
        unit = name == "report.validation_images" or name.split(".")[0] in UNITS
        if is_varied(values) and (name in VALIDATION_FIELDS or (unit and "evaluate" not in request)):
            return name
    return None


def _check_search(request: Mapping[str, Any]) -> None:
    if "random" in request or "repeats" in request:
        raise UserError("search proposes trials one by one: give neither random nor repeats with it")
    if name := find_incomparable(request):
        more = "" if "evaluate" in request or name in VALIDATION_FIELDS else ", or evaluate the runs"
        raise UserError(f"a search cannot compare trials with different {name}: give it one value{more}")


def combine(recipe: str | Recipe | None, data: str | None, choice: Mapping[str, Any]) -> Recipe:
    """Return the recipe that `ddim train` would use with these values.

    Raises:
        UserError: if it cannot be trained; the message names the values.
    """
    from ddim.recipe.checks import check_training
    from ddim.training.request import choose_recipe

    try:
        chosen = choose_recipe(recipe, data, choice)
        check_training(chosen)
    except UserError as error:
        raise UserError(f"{describe_choice(choice)}: {error}" if choice else str(error)) from None
    return _name_places(chosen)


def describe_choice(choice: Mapping[str, Any]) -> str:
    """Return values in words, such as "schedule=linear, optim.lr=0.001"."""
    return ", ".join(f"{name}={value}" for name, value in choice.items())


def _name_places(recipe: Recipe) -> Recipe:
    """Return the recipe with absolute paths of images and vectors: workers may run in other folders."""
    from ddim.data.open import absolute_source

    data = recipe.data
    vectors = data.vectors and absolute_source(data.vectors)
    return replace(recipe, data=replace(data, source=absolute_source(data.source), vectors=vectors))


def _name_trial(number: str, choice: Choice, seed: int) -> str:
    """Return a folder name for a trial, such as 03-l1-image-seed1."""
    words = [number, *choice.values(), *([] if "seed" in choice else [f"seed{seed}"])]
    kept = (re.sub(r"[^\w.]", "-", word).strip("-.") for word in words)
    return "-".join(word for word in kept if word)[:80]
