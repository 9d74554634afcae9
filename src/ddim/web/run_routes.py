"""The addresses that show runs: the list, its changes, and the details, curves, log and pictures of a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from fastapi import APIRouter, Response

from ddim.errors import UserError
from ddim.files import shorten_paths
from ddim.recipe.options import flatten_as_text, labels_by_default
from ddim.web.answers import Refused, reply
from ddim.web.event_stream import EVENTS, Event, EventStream
from ddim.web.explainer import Explainer, Field
from ddim.web.guides import Guide, list_guides
from ddim.web.rows import Row, Sweep, api_address, show_text
from ddim.web.run_details import (
    Checkpoint,
    Column,
    Curves,
    Evaluated,
    Log,
    Memorised,
    NamedFile,
    Sheet,
    describe_checkpoints,
    describe_evaluations,
    describe_memorisation,
    describe_sheets,
    find_picture,
    list_columns,
    list_films,
    read_curves,
    read_log,
    sheet_layout,
)
from ddim.web.run_feed import RunFeed
from ddim.web.run_list import ListedRun
from ddim.web.trainings import Trainings

T = TypeVar("T")


@dataclass(frozen=True)
class Runs:
    """The list of runs."""

    runs: list[Row]
    sweeps: list[Sweep]


@dataclass(frozen=True)
class Details(Row):
    """Everything that the page of one run shows, in addition to its row."""

    fields: list[Field] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    films: list[NamedFile] = field(default_factory=list)
    real_sheet: str | None = None
    sheet_columns: int = 0
    cell: list[int] | None = None
    evaluations: list[Evaluated] = field(default_factory=list)
    memorisation: Memorised | None = None
    class_names: list[str] = field(default_factory=list)
    vector: list[Column] = field(default_factory=list)
    draws_labels: bool = False
    guides: list[Guide] = field(default_factory=list)
    samplers: list[str] = field(default_factory=list)
    grids: list[str] = field(default_factory=list)
    steps: int | None = None
    can_stop: bool = False
    can_resume: bool = False
    can_sample: bool = False


def add_run_routes(router: APIRouter, feed: RunFeed, explain: Explainer, trainings: Trainings) -> None:
    """Add the addresses that show runs to a router."""

    @router.get("/runs", response_model=Runs)
    async def list_runs() -> Response:
        return reply(Runs(await feed.rows(), await feed.sweeps()))

    @router.get("/events", response_class=Response, responses=EVENTS)
    async def stream_runs() -> Response:
        return EventStream(_run_events(feed))

    @router.get("/runs/{run}", response_model=Details)
    async def show_run(run: str) -> Response:
        known, others = await feed.find_run(run), await feed.all_runs()
        details = await _read(known.run.path, lambda: _describe(run, known, {**others, run: known}))
        can_stop, can_resume = trainings.can_stop(known), trainings.can_resume(known)
        details = replace(details, can_stop=can_stop, can_resume=can_resume)
        if not details.can_sample:
            return reply(details)
        choices = await explain.list_choices()
        details = replace(details, samplers=choices["samplers"], grids=choices["grids"])
        try:
            return reply(replace(details, fields=await explain.list_fields(known.run.recipe)))
        except Refused:  # the recipe of another version of ddim, perhaps; its fields are shown without help
            return reply(details)

    @router.get("/runs/{run}/curves", response_model=Curves)
    async def show_curves(run: str) -> Response:
        path = (await feed.find_run(run)).run.path
        return reply(await _read(path, lambda: read_curves(path)))

    @router.get("/runs/{run}/log", response_model=Log)
    async def show_log(run: str) -> Response:
        path = (await feed.find_run(run)).run.path
        return reply(await _read(path, lambda: read_log(path)))

    @router.get("/runs/{run}/{kind}", response_class=Response)
    async def show_one_picture(run: str, kind: str) -> Response:
        return await _picture(feed, run, kind, "")

    @router.get("/runs/{run}/{kind}/{name}", response_class=Response)
    async def show_picture(run: str, kind: str, name: str) -> Response:
        return await _picture(feed, run, kind, name)


async def _run_events(feed: RunFeed) -> AsyncGenerator[Event, None]:
    changes = feed.listen()
    try:
        async for change in changes:
            yield Event("runs", change)
    finally:
        await changes.aclose()


async def _picture(feed: RunFeed, run: str, kind: str, name: str) -> Response:
    path = (await feed.find_run(run)).run.path
    content = await _read(path, lambda: find_picture(path, kind, name).read_bytes())
    return Response(content, media_type="image/webp" if kind == "films" else "image/png")


async def _read(run: Path, work: Callable[[], T]) -> T:
    """Return the result of `work`, which reads files of a run and is therefore called in a thread.

    Raises:
        Refused: if a file is damaged.
    """
    try:
        return await asyncio.to_thread(work)
    except UserError as error:
        raise Refused(409, shorten_paths(str(error), run)) from None
    except (TypeError, ValueError, KeyError, LookupError, AttributeError, OSError, RecursionError) as error:
        raise Refused(409, f"a file of this run is damaged: {type(error).__name__}") from None


def _describe(own: str, known: ListedRun, others: Mapping[str, ListedRun]) -> Details:
    row, run = known.row, known.run
    if row.state == "damaged" or not run.recipe:
        return Details(**vars(row))
    fields = [Field(name, show_text(value)) for name, value in flatten_as_text(run.recipe).items()]
    checkpoints = describe_checkpoints(run)
    columns, cell = sheet_layout(run)
    data = run.recipe["data"]
    names = (run.facts.get("data") or {}).get("classes") or []
    return Details(
        **vars(row),
        fields=fields,
        checkpoints=checkpoints,
        sheets=describe_sheets(own, run),
        films=list_films(own, run),
        real_sheet=api_address("runs", own, "real") if _has_picture(run.path, "real") else None,
        sheet_columns=columns,
        cell=cell,
        evaluations=describe_evaluations(run, known.marked),
        memorisation=describe_memorisation(own, run.path),
        class_names=[show_text(str(name)) for name in names] if row.classes else [],
        vector=list_columns(run.facts),
        draws_labels=labels_by_default(data),
        guides=list_guides(own, others),
        steps=int(run.recipe["steps"]),
        can_sample=bool(checkpoints),
    )


def _has_picture(path: Path, kind: str) -> bool:
    try:
        find_picture(path, kind, "")
    except Refused:
        return False
    return True
