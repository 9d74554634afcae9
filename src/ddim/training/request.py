"""A user's request for a run: build the recipe of a new run, or find the run to resume."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ddim.data.arrays import GivenImages, give_images
from ddim.data.open import source_exists
from ddim.diffusion.consistency import Consistency
from ddim.errors import UserError, describe_given, warn_user
from ddim.files import read_sealed
from ddim.machine.distributed import current_processes
from ddim.machine.runtime import find_device
from ddim.recipe.codec import list_fields, load_recipe, override
from ddim.recipe.named import RECIPES, find_recipe
from ddim.recipe.recipe import Recipe
from ddim.runs import checkpoint
from ddim.runs.folder import CHECKPOINTS, RUN
from ddim.sampling.images import fingerprint_source
from ddim.training.start import (
    Machine,
    change_recipe,
    find_size,
    load_named_recipe,
    load_parent_recipe,
    use_data,
)


def choose_recipe(
    recipe: str | Recipe | None, data: object, fields: Mapping[str, Any], source: str | Path | None = None
) -> Recipe:
    """Return the recipe of a new run.

    Args:
        recipe: see `train`.
        data: see `train`.
        fields: new values keyed by field path, as for `change_recipe`; None leaves a field as it is.
        source: see `train`.

    Raises:
        UserError: if the recipe, the images or a field cannot be used.
    """
    fields = {name: value for name, value in fields.items() if value is not None}
    if isinstance(recipe, Recipe):
        # A `Recipe` has a size for its images; only images that are given from Python keep their own size.
        return use_data(recipe, data, fields, keep_size=not isinstance(data, str | Path))
    if not isinstance(recipe, str | Path | None):
        raise UserError(
            "recipe must be the name of a recipe, a YAML or JSON file, or a Recipe, "
            f"got {describe_given(recipe)}"
        )
    own_images = data is not None
    if own_images and not isinstance(data, str | Path):
        data = give_images(data)
    if recipe is None and source is not None:
        # The weights fit only the network of their own recipe, so this recipe is the default.
        found = load_parent_recipe(source, own_images=own_images)
    else:
        name = "fast" if recipe is None else str(recipe)
        found = load_named_recipe(name, source, find_size(fields, data), own_images=own_images)
    return use_data(found, data, fields)


@dataclass(frozen=True)
class Request:
    """A user's request for a run to train.

    Attributes:
        recipe: name or file of a recipe; None means the recipe of `source`, or "fast" if there is no source.
        fields: new values of recipe fields, as text keyed by field path, such as {"optim.lr": "1e-3"}.
        source: a run whose weights the new run starts from.
        machine: device, precision, compilation, threads and recomputation.
        find_lr: whether a learning-rate range test sets `optim.lr`.
        data: images that are given from Python; None if `fields` names the images.
    """

    recipe: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    source: str | Path | None = None
    machine: Machine = Machine()
    find_lr: bool = False
    data: GivenImages | None = None

    def build_recipe(self) -> Recipe:
        """Return the recipe of a new run, with the requested images and fields."""
        return choose_recipe(self.recipe, self.images, self.fields, self.source)

    @property
    def images(self) -> GivenImages | str | None:
        """The images that the user names or gives; None for those of the recipe."""
        return self.fields.get("data.source") if self.data is None else self.data


@dataclass(frozen=True)
class FieldDifference:
    """A recipe field or machine option whose value in a run differs from the requested value."""

    name: str
    run: Any
    requested: Any


def find_resumable(
    request: Request, out: str | Path | None = None, runs: str | Path = "runs"
) -> tuple[Path | None, str]:
    """Find the run that a request resumes.

    Args:
        request: the user's request; options that are not given may have any value in the run.
        out: the run folder; None to find the newest run that fits the request. A student is left out, unless
            the request names its loss or another run: its other options are mostly those of its teacher.
        runs: the folder that is searched for that run.

    Returns:
        The run folder and ""; or, if a new run must begin, None and the reason.

    Raises:
        UserError: if the run in `out` differs from the request, or cannot be resumed. Without `out`, if a
            newer version of ddim wrote a run on these images.
    """
    if out is not None:
        return _check_out(Path(out), request)
    found = sorted(Path(runs).glob(f"*/{RUN}"), key=lambda path: path.stat().st_mtime, reverse=True)
    why = ""
    for folder in (path.parent for path in found):
        _check_version(folder, request)
        try:
            if "imported" in read_sealed(folder / RUN) or (
                _is_student(folder) and not _means_student(request)
            ):
                continue
            difference = find_difference(folder, request)
        except UserError:
            continue
        if difference is None:
            _warn_of_parts(folder, request)
            return folder, ""
        # The reason is about the newest run on the same images, which the user most probably means.
        if difference.name != "data.source" and not why:
            why = f": {folder} has {difference.name} = {difference.run}, not {difference.requested}"
    return None, f"no run in {runs}/ fits{why}"


def _check_version(folder: Path, request: Request) -> None:
    """Check that no newer version of ddim wrote a run, if it may be the requested one.

    The recipe of such a run may have fields that this version does not know, so only its images are compared.
    """
    source = None
    with suppress(UserError, KeyError, TypeError):
        source = os.path.normpath(read_sealed(folder / RUN)["recipe"]["data"]["source"])
    named = request.data.text if request.data is not None else request.fields.get("data.source")
    same = named is not None and os.path.normpath(named) == source
    if source is None or same or (named is None and request.recipe is None):
        checkpoint.read_newest_document(folder / CHECKPOINTS, "recipe")


def _is_student(folder: Path) -> bool:
    return isinstance(load_recipe(read_sealed(folder / RUN)["recipe"]).objective, Consistency)


def _means_student(request: Request) -> bool:
    named = request.recipe is not None or request.source is not None
    return named or any(name.startswith("objective") for name in request.fields)


def separate_budget(request: Request, out: str | Path | None) -> tuple[Request, int | None]:
    """Take the new budget, a number of images, out of a request that continues the run in `out`.

    All other options must agree with the run.

    Returns:
        The request without the new budget, and the new budget. If the request has no new budget, or `out`
        holds no run, the unchanged request and None are returned.
    """
    if out is None or "images" not in request.fields or not (Path(out) / RUN).is_file():
        return request, None
    images = override(Recipe(), {"images": request.fields["images"]}).images
    begun = read_sealed(Path(out) / RUN)["recipe"]["images"]
    if images in (None, begun):
        return request, None
    fields = {name: value for name, value in request.fields.items() if name != "images"}
    return replace(request, fields=fields if begun is None else fields | {"images": str(begun)}), images


def _check_out(out: Path, request: Request) -> tuple[Path | None, str]:
    if (out / RUN).is_file():
        if d := find_difference(out, _with_budget_of(out, request)):
            machine = ("device", "precision", "compile", "threads", "recompute")
            typed = any(d.name.startswith(name) for name in (*request.fields, *machine))
            option = "this option" if typed or request.recipe is None else f"--recipe {request.recipe}"
            longer = ", or train longer with --more M" if "minutes" in request.fields else ""
            raise UserError(
                f"run {out} has {d.name} = {d.run}, but the request has {d.name} = {d.requested}: "
                f"resume it without {option}{longer}, or start a new run"
            )
        _warn_of_parts(out, request)
        return out, ""
    if (out / CHECKPOINTS).is_dir():
        raise UserError(
            f"--out {out} is an imported run, with weights but without a training state: "
            f"start a new run from its weights with --from {out}"
        )
    # If the command gives images or a recipe, it may start a new run. So a user can repeat one command, from
    # the start of a run until it is finished.
    if request.recipe is None and request.images is None:
        what = "holds no run to resume" if out.exists() else "does not exist"
        raise UserError(f"--out {out} {what}; give DATA to start a new run there")
    return None, f"--out {out} holds no run to resume"


def _warn_of_parts(out: Path, request: Request) -> None:
    """Warn if the request gives another number of parts of a batch than a full memory has led to."""
    given = {name: value for name, value in request.fields.items() if name == "optim.accumulate"}
    saved = checkpoint.read_newest_document(out / CHECKPOINTS, "recipe") if given else None
    parts = saved and saved["optim"]["accumulate"]
    if saved and override(Recipe(), given).optim.accumulate != parts:
        warn_user(f"run {out} keeps optim.accumulate = {parts}, which it has since its memory was full")


def _with_budget_of(out: Path, request: Request) -> Request:
    """Return the request with the budget of a run, if the request itself gives no budget.

    The budget of the requested recipe is only a default, so the run may have another budget.
    """
    if {"images", "minutes"} & request.fields.keys():
        return request
    recipe = read_sealed(out / RUN)["recipe"]
    name = "minutes" if recipe["images"] is None else "images"
    return replace(request, fields={**request.fields, name: str(recipe[name])})


def find_difference(folder: Path, request: Request) -> FieldDifference | None:
    """Return the first difference between a run and a request, or None if there is none.

    A difference in the images is returned before all others.

    Raises:
        UserError: if the run's recipe cannot be read, a newer version of ddim wrote it, or this machine lacks
            the requested device.
    """
    # This comes first, because run.json of a newer ddim may have fields that this version does not know.
    saved = checkpoint.read_newest_document(folder / CHECKPOINTS, "recipe")
    facts = read_sealed(folder / RUN)
    recipe = load_recipe(facts["recipe"])
    expected = _expected(recipe, facts, request)
    if saved is not None and expected.optim.accumulate != recipe.optim.accumulate:
        # A repeated command has the first value; the checkpoint has a larger one if the memory was full.
        recipe = override(recipe, {"optim.accumulate": saved["optim"]["accumulate"]})
    requested = {name: value for name, _, value in list_fields(expected)}
    pairs = [FieldDifference(name, value, requested.get(name)) for name, _, value in list_fields(recipe)]
    machine = request.machine
    device = current_processes().assign_device(machine.device)
    runtime = facts["runtime"]
    if device != runtime["device"] and device.split(":")[0] == runtime["device"].split(":")[0]:
        # A run may continue on another GPU of this machine.
        find_device(device)
        device = runtime["device"]
    choices = {"device": device, "precision": machine.precision}
    choices |= {"compile": machine.compiling, "recompute": machine.recompute or None}
    pairs += [FieldDifference(n, runtime[n], v) for n, v in choices.items() if v not in (None, "auto")]
    # A number of threads that nobody has fixed can be fixed at a resume.
    if machine.threads is not None and facts["asked"]["threads"] is not None:
        pairs.append(FieldDifference("threads", facts["asked"]["threads"], machine.threads))
    pairs.sort(key=lambda pair: pair.name != "data.source")
    return next((pair for pair in pairs if pair.run != pair.requested), None)


def _expected(recipe: Recipe, facts: Mapping[str, Any], request: Request) -> Recipe:
    """Return the recipe that the run would have if this request had started it."""
    # Without the name of a recipe, only the requested fields can differ from the recipe of the run.
    if request.recipe is None:
        wanted = change_recipe(recipe, request.fields)
    else:
        named = _expected_named(request.recipe, recipe, facts, request)
        wanted = use_data(named, request.images, request.fields)
    if request.data is not None:
        source = give_images(request.data, recipe.data.values).text
        wanted = replace(wanted, data=replace(wanted.data, source=source))
    elif _names_same_images(request.fields.get("data.source"), recipe, facts):
        source = recipe.data.source
        wanted = replace(wanted, data=replace(wanted.data, source=source))
    if wanted.data.labels and recipe.data.labels and not wanted.net.classes:
        # The run counted the classes of its images when it started; the request does not know this number.
        wanted = override(wanted, {"net.classes": recipe.net.classes})
    if wanted.data.vectors is not None and recipe.data.vectors is not None and not wanted.net.vector:
        wanted = override(wanted, {"net.vector": recipe.net.vector})
    if request.find_lr:
        wanted = replace(wanted, optim=replace(wanted.optim, lr=recipe.optim.lr))
    return wanted


def _expected_named(name: str, recipe: Recipe, facts: Mapping[str, Any], request: Request) -> Recipe:
    """Return a named recipe as a run with these facts would have it; `recipe` is the recipe of the run."""
    size = find_size(request.fields, request.images)
    if not facts.get("source"):
        return find_recipe(name, size)
    # With --from, a named recipe gets the field `pixels` and the split of the source run, and also its images
    # if none are named.
    if name in RECIPES and request.images is None:
        found = find_recipe(name, size or recipe.data.size)
        data = replace(recipe.data, flip=found.data.flip)
    else:
        found = find_recipe(name, size)
        data = replace(found.data, split_seed=recipe.data.split_seed)
    return replace(found, pixels=recipe.pixels, data=data)


def _names_same_images(given: str | None, recipe: Recipe, facts: Mapping[str, Any]) -> bool:
    """Return whether `given` names the images of a run.

    This is true for None, for the source in the recipe, and for another path of the same images.
    """
    if given is None or os.path.normpath(given) == os.path.normpath(recipe.data.source):
        return True
    known = facts.get("data", {}).get("fingerprint")
    return source_exists(given) and known == fingerprint_source(given, recipe.data)
