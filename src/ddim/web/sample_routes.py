"""The addresses that make images: samples and edits, uploads, and the files of results."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from ddim.web.answers import Refused, reply
from ddim.web.event_stream import EVENTS, Event, EventStream, wait_until_left
from ddim.web.guard import client_address
from ddim.web.guides import find_guide
from ddim.web.model_worker import Job, ModelWorker, follow_job, take_result
from ddim.web.results import ResultStore, ResultStores
from ddim.web.rows import api_address
from ddim.web.run_feed import RunFeed
from ddim.web.run_list import ListedRun
from ddim.web.sample_requests import EditRequest, GuidedBody, SampleRequest, check_work
from ddim.web.settings import Limits
from ddim.web.tasks import EditTask, SampleTask, Task, UploadTask

UPLOAD = "image"
"""The name of the file of an upload."""
LEFT = 499
"""The status in the log for a client that left before its answer; nobody receives it."""


@dataclass(frozen=True)
class MadeImage:
    """An image of a result: the address of its picture, the name and address of its file, and its seed.

    The picture is the file itself, unless a browser cannot show it, such as an array of 8 channels.
    """

    url: str
    name: str
    file: str
    seed: int | None = None


@dataclass(frozen=True)
class Result:
    """New images, the files about them, and the command and Python code that make the same images.

    `seeded` says whether an interpolation between the seeds, which uses their latents alone, ends at these
    images if it has the same steps and the same guidance.
    """

    id: str
    images: list[MadeImage]
    sheet: str
    film: str | None
    record: str
    archive: str
    nfe: int | None
    seconds: float
    command: str
    python: str
    notes: list[str]
    seeded: bool


@dataclass(frozen=True)
class Upload:
    """An uploaded image."""

    upload: str
    width: int
    height: int


@dataclass(frozen=True)
class Services:
    """The objects that the routes share: the runs, the worker, the stored files and the limits."""

    feed: RunFeed
    worker: ModelWorker
    stores: ResultStores
    limits: Limits


def add_sample_routes(router: APIRouter, services: Services) -> None:
    """Add the addresses that make images to a router."""
    _add_edit_route(router, services)

    @router.post("/runs/{run}/samples", response_model=Result, responses=EVENTS)
    async def make_samples(run: str, body: SampleRequest, request: Request) -> Response:
        known = await _find_ready(services.feed, run)
        check_work(known.run.recipe, len(body.seeds), body.steps, services.limits, body.evaluations)
        guide, streaming = await _find_guide(services.feed, run, body), wants_events(request)

        def build(folder: Path) -> Task:
            return SampleTask(
                str(known.run.path),
                str(folder),
                body.seeds,
                body.steps,
                body.recipe_fields,
                label=body.label,
                vector=body.vector,
                guidance=body.guidance,
                interval=body.interval,
                guide_with=guide,
                film=body.film,
                previews=streaming,
            )

        return await _make(services, request, build)

    @router.post("/uploads", response_model=Upload, openapi_extra=_UPLOAD_BODY)
    async def upload_image(request: Request) -> Response:
        return reply(await _take_upload(services, request))

    @router.get("/results/{result}/{name}", response_class=Response)
    async def show_result(result: str, name: str) -> Response:
        return await answer_file(services.stores.results, result, name)


def _add_edit_route(router: APIRouter, services: Services) -> None:
    @router.post("/runs/{run}/edits", response_model=Result, responses=EVENTS)
    async def make_edits(run: str, body: EditRequest, request: Request) -> Response:
        known = await _find_ready(services.feed, run)
        check_work(known.run.recipe, body.count, body.steps, services.limits, body.passes)
        images = [
            _find_upload(services, source.upload) for source in body.sources if source.upload is not None
        ]
        mask = None if body.mask is None else _find_upload(services, body.mask)
        seeds = [source.seed for source in body.sources if source.seed is not None]
        guide, streaming = await _find_guide(services.feed, run, body), wants_events(request)

        def build(folder: Path) -> Task:
            return EditTask(
                str(known.run.path),
                str(folder),
                body.kind,
                images,
                seeds,
                mask,
                body.count,
                body.seed,
                body.steps,
                body.strength,
                body.resample,
                body.exact,
                body.fields,
                guidance=body.guidance,
                interval=body.interval,
                guide_with=guide,
                previews=streaming,
            )

        return await _make(services, request, build)


_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


async def answer_file(store: ResultStore, own: str, name: str) -> Response:
    """Return an answer that contains a file of a result.

    Raises:
        Refused: if there is no such file, or it has been removed.
    """
    path = store.find(own, name)
    try:
        content = await asyncio.to_thread(path.read_bytes)
    except OSError:
        raise Refused(404, "this result was removed because newer ones took its place") from None
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    save = {"Content-Disposition": f'attachment; filename="{name}"'} if name.endswith(".zip") else {}
    return Response(content, headers=save, media_type=kind)


def wants_events(request: Request) -> bool:
    """Return whether a client asks for a stream of events."""
    return "text/event-stream" in request.headers.get("accept", "").lower()


async def _find_ready(feed: RunFeed, own: str) -> ListedRun:
    """Return the run with the id `own`, if its training has begun.

    Raises:
        Refused: if there is no such run, or it is damaged or has not begun.
    """
    known = await feed.find_run(own)
    if known.row.state == "damaged" or not known.run.facts or known.row.size is None:
        raise Refused(409, f"this run cannot be sampled: {known.row.why or 'it has not begun'}")
    return known


async def _find_guide(feed: RunFeed, own: str, body: GuidedBody) -> str | None:
    """Return the weaker model of a request as the worker takes it, None if the request names none."""
    if body.guide_with is None:
        return None
    return await asyncio.to_thread(find_guide, body.guide_with, own, await feed.all_runs())


def _find_upload(services: Services, own: str) -> str:
    return str(services.stores.uploads.find(own, UPLOAD))


async def _make(services: Services, request: Request, build: Callable[[Path], Task]) -> Response:
    """Return the answer to a request for images, as one JSON document or as events."""
    own, folder = services.stores.results.make()
    try:
        job = services.worker.submit(build(folder), client_address(request.scope))
    except BaseException:
        services.stores.results.discard(own)
        raise
    if wants_events(request):
        return EventStream(_stream(services, job, own))
    try:
        if not await wait_for_job(services.worker, job, request):
            return Response(None, LEFT)
        return reply(_describe_result(services.stores.results, own, take_result(job)))
    finally:
        _tidy(services, job, own)


async def wait_for_job(worker: ModelWorker, job: Job, request: Request) -> bool:
    """Wait until a job has ended, and return True. If its client leaves first, cancel the job and return
    False.
    """
    leaving = asyncio.create_task(wait_until_left(request.receive))
    ending = asyncio.create_task(job.ended.wait())
    try:
        await asyncio.wait({leaving, ending}, return_when=asyncio.FIRST_COMPLETED)
        return job.ended.is_set()
    finally:
        leaving.cancel()
        ending.cancel()
        if not job.ended.is_set():
            worker.cancel(job)


async def do_task(services: Services, request: Request, task: Task) -> Mapping[str, Any]:
    """Return the result of a task; cancel it if the client leaves.

    Raises:
        Refused: if the client leaves, the queue is full, or the task cannot be done.
    """
    job = services.worker.submit(task, client_address(request.scope))
    if not await wait_for_job(services.worker, job, request):
        raise Refused(LEFT, "the client left")
    return take_result(job)


async def _stream(services: Services, job: Job, own: str) -> AsyncGenerator[Event, None]:
    events = follow_job(job)
    try:
        async for event in events:
            yield event
        try:
            yield Event("done", _describe_result(services.stores.results, own, take_result(job)))
        except Refused as refused:
            yield Event("failed", {"error": refused.sentence, "status": refused.status_code})
    finally:
        await events.aclose()
        if not job.ended.is_set():
            services.worker.cancel(job)
        _tidy(services, job, own)


def _tidy(services: Services, job: Job, own: str) -> None:
    """Remove the folder of a job that has no result; if the job still runs, do this when it has ended."""
    if job.result is not None:
        return
    if job.ended.is_set():
        services.stores.results.discard(own)
        return

    async def discard_later() -> None:
        await job.ended.wait()
        services.stores.results.discard(own)

    task = asyncio.create_task(discard_later())
    _TIDYING.add(task)
    task.add_done_callback(_TIDYING.discard)


_TIDYING: set[asyncio.Task[None]] = set()
"""The tasks that remove folders. Python may delete a task without a reference before the task ends."""


def _describe_result(store: ResultStore, own: str, found: Mapping[str, Any]) -> Result:
    store.keep(own)

    def address(name: str) -> str:
        return api_address("results", own, name)

    images = [
        MadeImage(address(each["view"]), each["name"], address(each["name"]), each.get("seed"))
        for each in found["images"]
    ]
    return Result(
        own,
        images,
        address(found["sheet"]),
        found["film"] and address(found["film"]),
        address(found["record"]),
        address(found["archive"]),
        found["nfe"],
        found["seconds"],
        found["command"],
        found["python"],
        list(found.get("notes", [])),
        bool(found.get("seeded")),
    )


async def _take_upload(services: Services, request: Request) -> Upload:
    own, folder = services.stores.uploads.make()
    try:
        # Written as it comes, so that many uploads together do not fill the memory.
        with (folder / UPLOAD).open("wb") as file:
            try:
                async for part in request.stream():
                    file.write(part)
            except ClientDisconnect:
                raise Refused(LEFT, "the client left") from None
        found = await do_task(services, request, UploadTask(str(folder / UPLOAD)))
        services.stores.uploads.keep(own)
    except BaseException:
        services.stores.uploads.discard(own)
        raise
    return Upload(own, int(found["width"]), int(found["height"]))
