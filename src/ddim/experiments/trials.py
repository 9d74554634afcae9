"""The trials of a sweep: the values that fields take, the recipe of each trial, and how trials ended.

Values are text, as `ddim train` takes them: lists such as ``l1,mse``, and ranges such as ``1e-4..1e-2``. The
plan of a sweep is in its ``sweep.json``, and the outcome of a trial in ``results/NAME.json``. This module
imports neither torch nor Optuna.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.errors import UserError
from ddim.files import read_sealed
from ddim.metrics.catalogue import DEFAULT
from ddim.recipe.options import option_text

if TYPE_CHECKING:
    from ddim.recipe.recipe import Recipe

SWEEP = "sweep.json"
"""The file that marks a folder as a sweep."""
UNITS = ("schedule", "pixels")
"""Parts of a recipe that define the unit of a denoising error: noise levels, and the scaling of pixels."""

HELD_OUT = ("seed", "data.source", "data.size", "data.channels", "data.validation", "data.split_seed")
"""Fields of a recipe that decide which images a run is validated and evaluated against."""

NUMBER = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?"
"""A pattern of the ends of a range."""

Choice = dict[str, str]
"""One value for each field of a sweep."""


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: its name, its values of the fields of the sweep, and its recipe as JSON.

    In a search, `fields` and `recipe` are None: Optuna proposes values when a worker takes the trial.
    """

    name: str
    fields: Choice | None
    recipe: dict[str, Any] | None


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: the exit code of its last command, and the last line that this command printed."""

    exit_code: int
    message: str

    @property
    def failed(self) -> bool:
        """Whether a command of the trial ended with an error."""
        return self.exit_code != 0


@dataclass(frozen=True)
class Sweep:
    """The plan of a sweep.

    Attributes:
        folder: the folder of the sweep.
        request: the arguments of `ddim.sweep` that chose the trials.
        storage: address of Optuna's storage without a password; None for ``study.db`` in the folder.
        study: name of the sweep in the storage.
        base: the recipe that all trials share, as JSON.
        trials: the trials.
    """

    folder: Path
    request: dict[str, Any]
    storage: str | None
    study: str
    base: dict[str, Any]
    trials: list[Trial]

    def run_folder(self, trial: Trial) -> Path:
        """Return the run folder of a trial."""
        return self.folder / "trials" / trial.name

    def outcome_file(self, trial: Trial) -> Path:
        """Return the file of a trial's `Outcome`, which exists once the trial has ended."""
        return self.folder / "results" / f"{trial.name}.json"

    def unfinished(self) -> list[Trial]:
        """Return the trials that have not ended."""
        return [trial for trial in self.trials if not self.outcome_file(trial).exists()]

    @property
    def metric(self) -> str:
        """The name of the number that a search minimises."""
        return "kid" if "evaluate" in self.request else "image_mae"


def list_trials(folder: Path) -> list[Trial]:
    """Return the planned trials of the sweep in a folder; none if another program wrote its sweep.json.

    Raises:
        UserError: if sweep.json is damaged.
    """
    document = read_sealed(folder / SWEEP)
    if document.get("kind") != "sweep":
        return []
    try:
        trials = [Trial(each["name"], each.get("fields"), each["recipe"]) for each in document["trials"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / SWEEP} is damaged: {type(error).__name__} {error}") from None
    for trial in trials:
        # A sweep from somebody else must not lead to files outside of its folder.
        if Path(trial.name).name != trial.name:
            raise UserError(f"{folder / SWEEP} is damaged: {trial.name!r} is not the name of a folder")
    return trials


def read_sweep(folder: Path) -> Sweep:
    """Return the sweep in a folder.

    Raises:
        UserError: if the folder has no sweep, or its sweep.json is damaged.
    """
    document = read_sealed(folder / SWEEP)
    parts = {name: document[name] for name in ("request", "storage", "study", "base")}
    return Sweep(folder=folder, trials=list_trials(folder), **parts)


def read_outcome(file: Path) -> Outcome | None:
    """Return the outcome in a file, or None if the file does not exist.

    Raises:
        UserError: if the file is damaged.
    """
    if not file.exists():
        return None
    document = read_sealed(file)
    return Outcome(document["exit_code"], document["message"])


# Values


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
        margin = 0.5 if self.whole else 0.0
        low, high = self.low - margin, self.high + margin
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
    if isinstance(values, Iterable) and not isinstance(values, str | tuple):
        return ",".join(values_text(tuple(each) if isinstance(each, list) else each) for each in values)
    return f"[{option_text(values)}]" if isinstance(values, tuple) else option_text(values)


def parse_space(fields: Mapping[str, str]) -> Space:
    """Parse the values of fields, such as {"schedule": "cosine,linear", "optim.lr": "1e-4..1e-2"}.

    A value in brackets, such as [16,32], is one value.

    Raises:
        UserError: if the ends of a range are in the wrong order.
    """
    space: dict[str, Sequence[str] | Range] = {}
    for name, text in fields.items():
        if found := re.fullmatch(rf"({NUMBER})\.\.({NUMBER})", text):
            whole = re.search("[.e]", found[1] + found[2], re.IGNORECASE) is None
            low, high = map(int if whole else float, found.groups())
            if low >= high:
                raise UserError(f"{name} must have the smaller end of its range first, got {text}")
            space[name] = Range(low, high, whole)
        else:
            space[name] = [value.strip() for value in re.split(r",(?![^\[]*\])", text)]
    return space


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


def _at(values: Sequence[str] | Range, u: float) -> str:
    return values.at(u) if isinstance(values, Range) else values[int(u * len(values))]


def _varies(values: Sequence[str] | Range) -> bool:
    return isinstance(values, Range) or len(values) > 1


def find_incomparable(request: Mapping[str, Any]) -> str | None:
    """Return a field that varies between trials and makes their errors or KIDs incomparable, or None."""
    for name, values in parse_space(request["fields"]).items():
        unit = name == "report.validation_images" or name.split(".")[0] in UNITS
        hidden = name in HELD_OUT or (unit and "evaluate" not in request)
        if hidden and _varies(values):
            return name
    return None


# Recipes


def plan_trials(request: Mapping[str, Any]) -> tuple[Recipe, list[Trial]]:
    """Return the recipe that all trials of a new sweep share, and the trials, after checking all recipes.

    Args:
        request: the arguments of `ddim.sweep` that choose trials; those that were not given are left out.

    Raises:
        UserError: if a field, a value or a combination is invalid, or images are missing.
    """
    from ddim.data.open import find_source
    from ddim.metrics.networks import load_network
    from ddim.recipe.checks import check_training
    from ddim.recipe.codec import dump

    space, search, repeats = parse_space(request["fields"]), request.get("search"), request.get("repeats", 1)
    if not space and repeats == 1:
        raise UserError("a sweep needs fields with the values to try, such as schedule, or repeats")
    if search and (name := find_incomparable(request)):
        raise UserError(f"a search cannot compare trials with different {name}: give it one value")
    if "evaluate" in request:
        load_network(DEFAULT)  # a missing package is an error now, and not after the first training
    fixed = {name: text for name, text in request["fields"].items() if not _varies(space[name])}
    base = _build_recipe(request, {name: fixed[name] for name in fixed if name.startswith("data.")})
    if search:
        choices = [{name: _at(each, u) for name, each in space.items()} for u in (0.0, 1 - 1e-12)]
    elif "random" in request:
        choices = draw_combinations(space, request["random"], base.seed)
    else:
        choices = list_combinations(space)
    recipes = [_build_recipe(request, choice) for choice in choices]
    for recipe in recipes:
        check_training(recipe)
        find_source(recipe.data.source)
    if search:
        return base, [Trial(f"{k:0{len(str(search))}}", None, None) for k in range(1, search + 1)]
    trials, width = [], len(str(len(recipes) * repeats))
    for choice, recipe in zip(choices, recipes, strict=True):
        for seed in range(recipe.seed, recipe.seed + repeats):
            name = _name_trial(f"{len(trials) + 1:0{width}}", choice, seed)
            trials.append(Trial(name, choice, dump(replace(recipe, seed=seed))))
    return base, trials


def _build_recipe(request: Mapping[str, Any], choice: Choice) -> Recipe:
    """Return the recipe that `ddim train` would use; its paths are absolute, as workers may run elsewhere."""
    from ddim.data.open import absolute_source
    from ddim.training.request import choose_recipe

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
