"""The addresses of long work: start, stop and resume trainings, evaluate, distill; recipes and images."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response

from ddim.data import arrays, sources
from ddim.data.decode import is_image_name
from ddim.runs.folder import make_numbered_folder
from ddim.web.answers import Refused, reply
from ddim.web.image_routes import Given, finish
from ddim.web.jobs import Job
from ddim.web.options import make_schema, read_options
from ddim.web.runs import api_address, name_id, show_text
from ddim.web.state import Here, Server

BUILT_IN = "blossoms"
"""The built-in set that needs no download."""
FILES = {
    "archive": (".zip", ".tar", ".tgz", ".txz", ".tar.gz", ".tar.xz"),
    "array": arrays.SUFFIXES,
    "parquet": (sources.SUFFIX,),
}
"""The ends of the names of files that hold many images, keyed by the kind of the set."""
MOST = 1000
"""The largest number of entries of the folder, of rejected files and of duplicates that are listed."""
SHEET = "sheet.png"
HIDDEN = (
    "out",
    "data",
    "recipe",
    "resume",
    "find_lr",
    "callbacks",
    "machine",
    "source",
    "track",
    "own",
    "run",
)
"""The options of `ddim train` that a request cannot set."""
FIELDS = ("data.source", "data.vectors", "objective.guide")
"""The fields of a recipe that a request cannot set: they name files."""


@dataclass(frozen=True)
class DataSet:
    """A set of images: its id, its name, and its kind: "folder", "built-in" or a key of `FILES`."""

    id: str
    name: str
    kind: str


@dataclass(frozen=True)
class RecipeText:
    """A named recipe, and a sentence about it."""

    name: str
    text: str


@dataclass(frozen=True)
class FieldText:
    """A field of a recipe, and a sentence about it."""

    field: str
    help: str


@dataclass(frozen=True)
class Choices:
    """What a new training can use: image sets, recipes and the fields that can be changed."""

    data: list[DataSet]
    recipes: list[RecipeText]
    fields: list[FieldText]


@dataclass(frozen=True)
class DataDetails:
    """A set of images as `ddim data` describes it, and the address of a sheet."""

    images: int
    verdict: str
    classes: dict[str, int]
    rejects: list[dict[str, str]]
    duplicates: list[list[str]]
    sheet: str


@dataclass(frozen=True)
class Started:
    """The id of the run on which a command has begun to work."""

    id: str


@dataclass(frozen=True)
class Planned:
    """What `ddim plan` says of a training."""

    verdict: str


Minutes = Annotated[float | None, Body(embed=True, gt=0, allow_inf_nan=False)]
Count = Annotated[int, Body(embed=True, ge=20, le=50_000)]
Size = Annotated[int, Query(ge=8, le=256)]

_TRAINING = {"requestBody": {"content": {"application/json": {"schema": make_schema("train", HIDDEN)}}}}

router = APIRouter()


def read_training(here: Server, given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Return the name and the source of the images of a new training, and its options.

    Raises:
        Refused: if the page may not train, or an option is wrong.
    """
    here.check_allowed()
    entry, source = find_data(here.settings.data, str(given.pop("data", "")))
    recipe, options = str(given.pop("recipe", "fast")), read_options("train", given, HIDDEN)
    if recipe not in [each.name for each in list_recipes()]:
        raise Refused(422, "recipe must be the name of a built-in recipe")
    if wrong := [name for name in options.get("fields", {}) if name in FIELDS]:
        raise Refused(422, f"{wrong[0]} names a file or folder; the page trains without it")
    return entry.name, source, {"recipe": recipe, **options}


@router.get("/choices", response_model=Choices)
def show_choices(here: Here) -> Response:
    """List what a new training can use."""
    from ddim.recipe.help import explain_fields
    from ddim.recipe.named import find_recipe

    data = [entry for entry, _ in list_data(here.settings.data).values()]
    fields = [FieldText(path, text) for path, _, _, text in explain_fields(find_recipe("fast"))]
    return reply(Choices(data, list_recipes(), fields))


@router.post("/plans", response_model=Planned, openapi_extra=_TRAINING)
async def plan_training(request: Request, here: Here, given: Given) -> Response:
    """Say what a training will do; see `ddim plan`."""
    _, source, options = await asyncio.to_thread(read_training, here, given)

    def work(job: Job) -> str:
        from ddim.experiments.plan import plan

        return plan(source, progress=job.progress, **options).verdict

    return reply(Planned(await finish(here.models, here.models.submit(work), request)))


@router.post("/runs", response_model=Started, status_code=202, openapi_extra=_TRAINING)
def begin_training(here: Here, given: Given, name: str = "") -> Response:
    """Start a training in a new folder."""
    from ddim.training.request import choose_recipe

    data, source, options = read_training(here, given)
    fields = fields_of(options)
    choose_recipe(options["recipe"], source, fields)  # an error now, and not in the process
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", name or f"{Path(data).stem}-{options['recipe']}").strip("-.")
    folder = make_numbered_folder(here.settings.folder, f"{stem[:80] or 'run'}-")
    words = [f"--{field}={value}" for field, value in {**fields, "recipe": options["recipe"]}.items()]
    here.processes.start("train", folder, [source, "--out", str(folder), *words])
    return reply(Started(name_id(folder, here.settings.folder)), 202)


@router.post("/runs/{run}/resume", response_model=Started, status_code=202)
def resume_training(run: str, here: Here, minutes: Minutes = None) -> Response:
    """Resume a run; `minutes` train it longer than planned."""
    here.check_allowed()
    known = here.runs.find(run)
    if known.run.sweep is not None:
        raise Refused(409, "this is a trial of a sweep: resume the sweep with `ddim sweep`")
    if known.run.state not in ("stopped", "finished"):
        raise Refused(409, f"this run cannot be resumed: it is {known.row.state}")
    if known.run.state == "finished" and minutes is None:
        raise Refused(409, "this run is finished; give minutes to train it longer")
    more = [] if minutes is None else [f"--more={minutes:g}"]
    here.processes.start("train", known.run.path, ["--resume", "--out", str(known.run.path), *more])
    return reply(Started(run), 202)


@router.post("/runs/{run}/stop", response_model=Started, status_code=202)
def stop_training(run: str, here: Here) -> Response:
    """Ask a training to save a checkpoint and stop."""
    here.check_allowed()
    known = here.runs.find(run)
    if known.run.state != "running":
        raise Refused(409, f"this run cannot be stopped: it is {known.row.state}")
    here.processes.stop(known.run.path)
    return reply(Started(run), 202)


@router.post("/runs/{run}/evaluate", response_model=Started, status_code=202)
def evaluate_run(run: str, here: Here, n: Count = 500) -> Response:
    """Evaluate a run with n samples."""
    here.check_allowed()
    path = here.runs.find(run).run.path
    here.processes.start("evaluate", path, [str(path), "-n", str(n)])
    return reply(Started(run), 202)


@router.post("/runs/{run}/distill", response_model=Started, status_code=202)
def distill_run(run: str, here: Here, minutes: Minutes = 60.0) -> Response:
    """Train a student of a run in a new folder."""
    here.check_allowed()
    teacher = here.runs.find(run).run.path
    folder = make_numbered_folder(here.settings.folder, f"{teacher.name}-distilled-")
    words = [str(teacher), "--out", str(folder), f"--minutes={minutes or 60:g}"]
    here.processes.start("distill", folder, words)
    return reply(Started(name_id(folder, here.settings.folder)), 202)


@router.get("/data/{data}", response_model=DataDetails)
async def show_data(data: str, request: Request, here: Here, size: Size = 64) -> Response:
    """Describe a set of images; see `ddim data`."""
    _, source = await asyncio.to_thread(find_data, here.settings.data, data)
    key, folder = here.store.make()

    def work(job: Job) -> DataDetails:
        from ddim.evaluation.image_summary import inspect_data

        summary = inspect_data(source, size=size, out=folder / SHEET, progress=job.progress)
        facts, address = summary.facts, api_address("results", key, SHEET)
        rejects, duplicates = facts["rejected"][:MOST], facts["duplicates"][:MOST]
        classes = dict(facts["classes"] or {})
        return DataDetails(
            facts["images"], summary.verdict.partition(": ")[2], classes, rejects, duplicates, address
        )

    try:
        # Reading a large set takes as long as it takes; its client may leave.
        details = await finish(here.models, here.models.submit(work, float("inf")), request)
    except BaseException:
        here.store.discard(key)
        raise
    here.store.keep(key)
    return reply(details)


def list_recipes() -> list[RecipeText]:
    """Return the named recipes, each with the first sentence about it."""
    import inspect

    from ddim.recipe.named import RECIPES

    texts = {name: (inspect.getdoc(make) or "").partition("\n")[0] for name, make in RECIPES.items()}
    return [RecipeText(name, text.removesuffix(".")) for name, text in texts.items()]


def list_data(folder: Path | None) -> dict[str, tuple[DataSet, str]]:
    """Return the image sets, each with its source for `ddim train`, keyed by id.

    These are the built-in set, and the subfolders, archives, arrays and parquet files of the folder; the
    folder itself too if it has images. Links are left out. Without a folder the page may not train, and there
    are none.
    """
    if folder is None:
        return {}
    sets = [(DataSet(f"built-in~{BUILT_IN}", BUILT_IN, "built-in"), BUILT_IN)]
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)[:MOST]
    # A link could lead out of the folder.
    entries = [entry for entry in entries if not entry.is_symlink() and not entry.name.startswith(".")]
    kinds = {entry.path: _find_kind(entry) for entry in entries}
    if {"folder", "parquet"} & {*kinds.values()} or any(is_image_name(entry.name, b"") for entry in entries):
        sets.append((DataSet("folder", show_text(folder.resolve().name), "folder"), str(folder)))
    for path, kind in kinds.items():
        if kind:
            key = f"{kind}~{name_id(Path(path), folder)}"
            sets.append((DataSet(key, show_text(Path(path).name), kind), path))
    return {entry.id: (entry, source) for entry, source in sets}


def _find_kind(entry: os.DirEntry[str]) -> str | None:
    name = entry.name.lower()
    kinds = (kind for kind, ends in FILES.items() if name.endswith(ends))
    return "folder" if entry.is_dir() else next(kinds, None)


def find_data(folder: Path | None, key: str) -> tuple[DataSet, str]:
    """Return the image set with an id, and its source for `ddim train`.

    Raises:
        Refused: if the server has no folder of images, or no image set has this id.
    """
    if folder is None:
        raise Refused(403, "this server shows no images: start it with --data FOLDER")
    if key not in (known := list_data(folder)):
        raise Refused(404, "there are no images of this name")
    return known[key]


def fields_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a training as fields of a recipe, as text keyed by path."""
    names = {"size": "data.size", "minutes": "minutes", "images": "images"}
    plain = {path: str(options[name]) for name, path in names.items() if name in options}
    return {**options.get("fields", {}), **plain}
