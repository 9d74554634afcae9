"""The addresses of long work: start, stop and resume trainings, evaluate, distill; recipes and images."""

import asyncio
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response

from ddim.evaluation.image_summary import inspect_data
from ddim.experiments.plan import describe_minutes, plan
from ddim.recipe.codec import dump
from ddim.recipe.named import RECIPES, find_recipe
from ddim.runs.folder import make_numbered_folder
from ddim.training.request import choose_recipe
from ddim.web.answers import Refused, Started, reply
from ddim.web.data_sets import DataSet, find_data, list_data
from ddim.web.details import Field, explain_recipe
from ddim.web.images import find_address
from ddim.web.jobs import Job
from ddim.web.options import make_model, write_options
from ddim.web.runs import check_folder_name, name_id, remove_unused
from ddim.web.state import Allowed, Here, Server

LISTED = 1000
"""The largest number of rejected files and of duplicates that are listed."""


class TrainOptions(make_model("TrainOptions", "train", data=str)):
    """The options of `ddim train`, and the id of the images."""


@dataclass(frozen=True)
class Choices:
    """What a new training can use: image sets, recipes and the fields that can be changed.

    A recipe has a name, a text about it, and a size of images.
    """

    data: list[DataSet]
    recipes: list[dict[str, Any]]
    fields: list[Field]


Minutes = Annotated[float | None, Body(embed=True, gt=0, allow_inf_nan=False)]
Count = Annotated[int, Body(embed=True, ge=20, le=50_000)]
Name = Annotated[str, Query(max_length=80)]
Size = Annotated[int, Body(embed=True, ge=8, le=256)]

router = APIRouter()


@router.get("/choices", response_model=Choices)
def show_choices(here: Here) -> Response:
    """List what a new training can use."""
    recipes = []
    for name, make in RECIPES.items():
        text = (inspect.getdoc(make) or "").partition("\n")[0].removesuffix(".")
        recipes.append({"name": name, "text": text, "size": find_recipe(name).data.size})
    data = [entry for entry, _ in list_data(here.settings.data).values()]
    return reply(Choices(data, recipes, explain_recipe(dump(find_recipe("fast")))))


def read_training(here: Server, given: TrainOptions) -> tuple[str, str, dict[str, Any]]:
    """Return the name and the source of the images of a new training, and its options.

    Raises:
        Refused: if there are no such images or recipe.
        UserError: if the recipe is not possible.
    """
    options: dict[str, Any] = {"recipe": "fast", **given.model_dump(exclude_none=True)}
    entry, source = find_data(here.settings.data, options.pop("data", ""))
    if options["recipe"] not in RECIPES:
        raise Refused(422, f"recipe must be one of {', '.join(RECIPES)}")
    names = {"size": "data.size", "labels": "data.labels", "minutes": "minutes", "images": "images"}
    plain = {field: options[name] for name, field in names.items() if name in options}
    # An error now, and not in the process.
    choose_recipe(options["recipe"], source, {**options.get("fields", {}), **plain})
    return entry.name, source, options


@router.post("/plans", response_model=dict[str, str])
async def plan_training(request: Request, here: Allowed, given: TrainOptions) -> Response:
    """Say what a training will do; see `ddim plan`."""
    _, source, options = await asyncio.to_thread(read_training, here, given)
    job = here.models.submit(lambda job: plan(source, progress=job.show, **options))
    found = await here.models.finish(job, request)
    minutes, seen, passes = (found.rows[0][name] for name in ("minutes", "images", "passes"))
    images = f"{seen:,} images in {describe_minutes(minutes)}: each training image {passes:,.1f} times"
    # Without a forecast, the verdict says only how often each image is seen.
    return reply({"verdict": f"{images}; {found.verdict}" if found.recognisable else images})


@router.post("/runs", response_model=Started, status_code=202)
def begin_training(here: Allowed, given: TrainOptions, name: Name = "") -> Response:
    """Start a training in a new folder; a name that is taken gets a number."""
    data, source, options = read_training(here, given)
    check_folder_name(name)
    folder = here.settings.folder / name
    if not name or folder.exists():
        stem = re.sub(r"-\d+$", "", name) or f"{Path(data).stem}-{options['recipe']}".lstrip(".")
        folder = make_numbered_folder(here.settings.folder, f"{stem}-")
    folder.mkdir(parents=True, exist_ok=True)
    return start(here, "train", folder, source, "--out", str(folder), *write_options("train", options))


def start(here: Server, command: str, folder: Path, *words: str) -> Response:
    """Start a command on a run folder; if it is refused, a folder that was made for it is removed."""
    try:
        here.processes.start(command, folder, words)
    except Refused:
        remove_unused(folder)
        raise
    here.runs.read(now=True)
    return reply(Started(name_id(folder, here.settings.folder)), 202)


@router.post("/runs/{run}/resume", response_model=Started, status_code=202)
def resume_training(run: str, here: Allowed, minutes: Minutes = None) -> Response:
    """Resume a run; `minutes` train it longer than planned."""
    known = here.find_changeable(run).run
    if known.state not in ("stopped", "finished"):
        raise Refused(409, f"this run cannot be resumed: it is {known.state}")
    if known.state == "finished" and minutes is None:
        raise Refused(409, "this run is finished; give minutes to train it longer")
    more = [] if minutes is None else [f"--more={minutes:g}"]
    return start(here, "train", known.path, "--resume", "--out", str(known.path), *more)


@router.post("/runs/{run}/stop", response_model=Started, status_code=202)
def stop_training(run: str, here: Allowed) -> Response:
    """Ask a command that works on a run to stop; a training saves a checkpoint first."""
    here.processes.stop(here.runs.find(run).run.path)
    return reply(Started(run), 202)


@router.post("/runs/{run}/evaluate", response_model=Started, status_code=202)
def evaluate_run(run: str, here: Allowed, n: Count = 500) -> Response:
    """Evaluate a run with n samples."""
    path = here.runs.find(run).run.path
    return start(here, "evaluate", path, str(path), "-n", str(n))


@router.post("/runs/{run}/distill", response_model=Started, status_code=202)
def distill_run(run: str, here: Allowed, minutes: Minutes = 60.0) -> Response:
    """Train a student of a run in a new folder."""
    teacher = here.runs.find(run).run.path
    folder = make_numbered_folder(here.settings.folder, f"{teacher.name}-distilled-")
    return start(here, "distill", folder, str(teacher), "--out", str(folder), f"--minutes={minutes or 60:g}")


@router.post("/data/{data}", response_model=dict[str, Any])
async def show_data(data: str, request: Request, here: Allowed, size: Size = 64) -> Response:
    """Describe a set of images; see `ddim data`. `sheet` is the address of a picture of the images."""
    _, source = await asyncio.to_thread(find_data, here.settings.data, data)
    folder = here.store.make()
    here.store.keep(folder)
    sheet = folder / "sheet.png"

    def work(job: Job) -> dict[str, Any]:
        summary = inspect_data(source, size=size, out=sheet, progress=job.show)
        facts, verdict = summary.facts, summary.verdict.partition(": ")[2]
        shown = {"verdict": verdict, "classes": dict(facts["classes"] or {}), "sheet": find_address(sheet)}
        return {**shown, "rejects": facts["rejected"][:LISTED], "duplicates": facts["duplicates"][:LISTED]}

    # Reading a large set takes as long as it takes; its client may leave.
    return reply(await here.images.finish(here.images.submit(work, float("inf")), request))
