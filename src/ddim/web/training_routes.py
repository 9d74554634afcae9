"""The addresses that start, stop and resume trainings, and show recipes and images."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, model_validator

from ddim.web.answers import Refused, reply
from ddim.web.data_sets import DataSet, find_data, list_data
from ddim.web.explainer import Explainer
from ddim.web.rows import api_address, name_id
from ddim.web.run_list import ListedRun
from ddim.web.sample_requests import Body, FieldPath, Name
from ddim.web.sample_routes import Services, do_task
from ddim.web.settings import Settings
from ddim.web.tasks import DataTask, TrainingTask
from ddim.web.trainings import Trainings

Minutes = Annotated[float, Field(gt=0, le=60 * 24 * 365, allow_inf_nan=False)]
SHEET = "sheet.png"
ShownSize = Annotated[int, Query(ge=8, le=256)]
"""Height and width in pixels at which a set of images is shown."""


class TrainingRequest(Body):
    """Start a training; each option is that of `ddim train`."""

    data: Name
    recipe: Name
    size: Annotated[int, Field(ge=8, le=1024)] | None = None
    minutes: Minutes | None = None
    images: Annotated[int, Field(ge=1, le=10**12)] | None = None
    fields: dict[FieldPath, Name] = Field(default_factory=dict, max_length=64)

    @model_validator(mode="after")
    def _check(self) -> TrainingRequest:
        if self.minutes is not None and self.images is not None:
            raise ValueError("give minutes or images, not both")
        for name, value in self.fields.items():
            # `ddim train --net FILE.py:NAME` would run the file.
            if re.search(r"\.py\s*:", value):
                raise ValueError(
                    f"{name} names a component in a Python file; the page runs no code from files"
                )
            if name in ("data.source", "data.size", "minutes", "images"):
                raise ValueError(f"{name} does not belong in fields: use data, size, minutes or images")
            if name in ("data.vectors", "objective.guide"):
                raise ValueError(f"{name} names a file or folder; the page trains without it")
        return self


class ResumeRequest(Body):
    """Resume a training; `minutes` extends it beyond its plan."""

    minutes: Minutes | None = None


@dataclass(frozen=True)
class Started:
    """A new training run: its id."""

    id: str


@dataclass(frozen=True)
class Asked:
    """The answer to a request to stop or resume a training: the request was accepted."""

    ok: bool = True


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
class Recipes:
    """The named recipes, and the fields of recipes that can be changed."""

    recipes: list[RecipeText]
    fields: list[FieldText]


@dataclass(frozen=True)
class DataSets:
    """The sets of images on which a training can be started."""

    entries: list[DataSet]


@dataclass(frozen=True)
class ClassCount:
    """A class and its number of images."""

    name: str
    count: int


@dataclass(frozen=True)
class RejectedFile:
    """A file that cannot be used, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class DataDetails:
    """A set of images, as `ddim data` describes it."""

    images: int
    size: list[int]
    classes: list[ClassCount]
    rejects: list[RejectedFile]
    duplicates: list[list[str]]
    sheet: str


def add_training_routes(
    router: APIRouter, services: Services, explain: Explainer, trainings: Trainings, settings: Settings
) -> None:
    """Add the addresses of trainings, recipes and images to a router."""
    _add_data_routes(router, services, settings)

    @router.get("/recipes", response_model=Recipes)
    async def list_recipes() -> Response:
        choices = await explain.list_choices()
        return reply({"recipes": choices["recipes"], "fields": choices["fields"]})

    @router.post("/runs", response_model=Started, status_code=202)
    async def start_training(body: TrainingRequest) -> Response:
        if not settings.may_train:
            raise Refused(403, "this server may not train: start it with --data FOLDER")
        entry, source = find_data(settings.data, body.data)
        names = [each["name"] for each in (await explain.list_choices())["recipes"]]
        if body.recipe not in names:
            raise Refused(422, f"recipe must be one of {', '.join(names)}")
        fields = training_fields(body)
        await services.worker.ask(TrainingTask(body.recipe, fields))
        words = [f"--recipe={body.recipe}", *(f"--{name}={value}" for name, value in fields.items())]
        folder = await trainings.start(source, words, f"{_stem(entry.name)}-{body.recipe}")
        await services.feed.refresh(fully=True, at_once=True)
        return reply(Started(name_id(folder, settings.folder)), 202)

    @router.post("/runs/{run}/stop", response_model=Asked, status_code=202)
    async def stop_training(run: str) -> Response:
        known = await services.feed.find_run(run)
        if not settings.may_train:
            raise Refused(403, "this server may not stop trainings: start it with --data FOLDER")
        if not trainings.can_stop(known):
            reason = _explain_state(known, "running", "stop its worker in the terminal")
            raise Refused(409, f"this run cannot be stopped here: it is {reason}")
        trainings.stop(known.run.path)
        return reply(Asked(), 202)

    @router.post("/runs/{run}/resume", response_model=Asked, status_code=202)
    async def resume_training(run: str, body: ResumeRequest) -> Response:
        known = await services.feed.find_run(run)
        if not settings.may_train:
            raise Refused(403, "this server may not resume trainings: start it with --data FOLDER")
        if not trainings.can_resume(known):
            reason = _explain_state(known, "stopped", "resume the sweep with `ddim sweep`")
            raise Refused(409, f"this run cannot be resumed here: it is {reason}")
        if known.run.state == "finished" and body.minutes is None:
            raise Refused(409, "this run is finished; give minutes to train it longer")
        await trainings.resume(known.run.path, body.minutes)
        await services.feed.refresh(fully=True, at_once=True)
        return reply(Asked(), 202)


def _explain_state(known: ListedRun, allowed: str, advice: str) -> str:
    """Return the state of a run, or that it is a trial if its state `allowed` the action otherwise."""
    is_trial = known.run.sweep is not None and known.run.state == allowed
    return f"a trial of a sweep: {advice}" if is_trial else known.row.state


def _add_data_routes(router: APIRouter, services: Services, settings: Settings) -> None:
    @router.get("/data", response_model=DataSets)
    async def list_data_sets() -> Response:
        found = await asyncio.to_thread(list_data, settings.data)
        return reply(DataSets([entry for entry, _ in found.values()]))

    @router.get("/data/{data}", response_model=DataDetails)
    async def show_data(data: str, request: Request, size: ShownSize = 64) -> Response:
        _, source = await asyncio.to_thread(find_data, settings.data, data)
        own, folder = services.stores.results.make()
        try:
            found = await do_task(services, request, DataTask(source, [size, size], str(folder / SHEET)))
            services.stores.results.keep(own)
        except BaseException:
            services.stores.results.discard(own)
            raise
        return reply({**found, "sheet": api_address("results", own, SHEET)})


def training_fields(body: TrainingRequest) -> dict[str, str]:
    """Return the fields of the recipe that a request sets, as text keyed by path."""
    fields = dict(body.fields)
    if body.size is not None:
        fields["data.size"] = str(body.size)
    if body.minutes is not None:
        fields["minutes"] = f"{body.minutes:g}"
    if body.images is not None:
        fields["images"] = str(body.images)
    return fields


def _stem(name: str) -> str:
    """Return the first part of the name of a run folder, made from the name of its images."""
    word = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(name).stem).strip("-.")
    return word[:60] or "images"
