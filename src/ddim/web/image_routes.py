"""The addresses that make images: samples and edits, uploads, and the files of results."""

from __future__ import annotations

import asyncio
import json
import mimetypes
import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.responses import StreamingResponse

from ddim.web.answers import Refused, as_plain, reply
from ddim.web.details import find_guide
from ddim.web.images import EDITS, Result, edit_run, sample_run
from ddim.web.jobs import Job, ModelThread
from ddim.web.options import check_work, make_schema, read_options
from ddim.web.results import ResultStore
from ddim.web.runs import ListedRun, api_address
from ddim.web.state import Here, Server

EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}
"""The OpenAPI description of an answer that is a stream of events."""

QUIET = 15.0
"""Seconds without an event after which a comment is sent, so that no proxy closes the connection."""

MASK = "mask.png"

Given = Annotated[dict[str, Any], Body()]
"""The body of a request: the options of a command, keyed by name."""


@dataclass(frozen=True)
class Upload:
    """An uploaded image."""

    upload: str
    width: int
    height: int


@dataclass(frozen=True)
class Stopped:
    """The id of the result of a request that ends now."""

    id: str


@dataclass(frozen=True)
class Results:
    """The newest results, the oldest first."""

    results: list[Result]


def describe_body(command: str) -> dict[str, Any]:
    """Return the OpenAPI description of a body with the options of a command."""
    return {"requestBody": {"content": {"application/json": {"schema": make_schema(command)}}}}


_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}

router = APIRouter()


@router.post("/runs/{run}/samples", response_model=Result, openapi_extra=describe_body("sample"))
async def make_samples(run: str, request: Request, here: Here, given: Given) -> Response:
    """Sample a run; the options are those of `ddim sample`."""
    known, options = await asyncio.to_thread(read_request, here, "sample", run, given)
    seeds, recipe = options.pop("seeds", None) or [*range(16)], known.run.recipe
    passes = 1 if options.get("guidance") in (None, 1) else 2
    steps = options.get("steps", int(recipe["steps"]))
    check_work(recipe, len(seeds), steps, passes, here.settings.limits)
    path = known.run.path
    return await begin(here, request, lambda job, folder: sample_run(job, path, folder, seeds, options))


@router.post("/runs/{run}/edits/{kind}", response_model=Result, openapi_extra=describe_body("vary"))
async def make_edits(run: str, kind: str, request: Request, here: Here, given: Given) -> Response:
    """Edit images; the options are those of the command `kind`."""
    if kind not in EDITS:
        raise Refused(404, f"an edit must be one of {', '.join(EDITS)}")
    sources, mask = given.pop("sources", []), given.pop("mask", None)
    known, options = await asyncio.to_thread(read_request, here, kind, run, given)
    files = [find_start(here.store, source) for source in sources]
    if len(files) not in {"interpolate": (0, 2), "invert": range(1, 65)}.get(kind, (1,)):
        raise Refused(422, f"{kind} needs another number of images than {len(files)}")
    if kind in ("vary", "inpaint"):
        options.setdefault("seeds", [*range(8 if kind == "vary" else 4)])
    often = {"vary": 1, "interpolate": 2, "inpaint": options.get("resample", 5), "invert": 4}[kind]
    count = options.get("frames", 9) if kind == "interpolate" else len(options.get("seeds", files))
    check_work(known.run.recipe, count, options.get("steps", 50), 2 * often, here.settings.limits)
    before = describe_sources(here.store, sources)

    def work(job: Job, folder: Path) -> Result:
        copies = [copy_into(folder, file) for file in files]
        if mask is not None:
            options["mask"] = copy_into(folder, find_start(here.store, {"upload": mask}), MASK)
        return edit_run(job, kind, known.run.path, folder, copies, options, before)

    return await begin(here, request, work)


@router.post("/uploads", response_model=Upload, openapi_extra=_UPLOAD_BODY)
async def upload_image(request: Request, here: Here, name: str = "image") -> Response:
    """Keep an image under its name, so that edits can start from it."""
    data = await request.body()
    key, folder = here.store.make()
    path = folder / (re.sub(r"[^\w.-]+", "-", Path(name).name).strip(".-")[:80] or "image")
    try:
        path.write_bytes(data)
        job = here.models.submit(lambda _: check_image(data))
        width, height = await finish(here.models, job, request)
    except BaseException:
        here.store.discard(key)
        raise
    here.store.keep(key)
    return reply(Upload(key, width, height))


@router.post("/jobs/{key}/stop", response_model=Stopped, status_code=202)
async def stop_job(key: str, here: Here) -> Response:
    """End a request now, and deliver the images that are ready."""
    if key not in here.jobs:
        raise Refused(404, "this request has ended")
    here.jobs[key].enough = True
    return reply(Stopped(key), 202)


@router.get("/results", response_model=Results)
async def list_results(here: Here) -> Response:
    """List the results that are kept, the oldest first."""
    return reply(Results([kept.content for kept in here.store.kept.values() if kept.content]))


@router.get("/results/{key}/{name}", response_class=Response)
def show_result(key: str, name: str, here: Here) -> Response:
    """Return a file of a result."""
    return answer_file(here.store.find(key, name))


def read_request(
    here: Server, kind: str, run: str, given: dict[str, Any]
) -> tuple[ListedRun, dict[str, Any]]:
    """Return the run and the options of a request; its guide becomes the path of a run.

    Raises:
        Refused: if the run cannot be sampled, or an option is wrong.
    """
    known = here.runs.find(run)
    if known.row.state == "damaged" or not known.run.facts or known.row.size is None:
        raise Refused(409, f"this run cannot be sampled: {known.row.why or 'it has not begun'}")
    options = read_options(kind, given)
    if "guide_with" in options:
        options["guide_with"] = find_guide(options["guide_with"], known, here.runs.read())
    if not isinstance(options.get("vector", []), list):
        raise Refused(422, "vector must be a list of numbers")
    return known, options


async def begin(here: Server, request: Request, work: Callable[[Job, Path], Result]) -> Response:
    """Return the answer to a request for images, as one JSON document or as events."""
    key, folder = here.store.make()

    def run(job: Job) -> Result:
        try:
            result = address_files(work(job, folder))
        except BaseException:
            here.store.discard(key)
            raise
        here.store.keep(key, result)
        return result

    try:
        job = here.models.submit(run)
    except Refused:
        here.store.discard(key)
        raise
    here.jobs[key] = job
    if "text/event-stream" in request.headers.get("accept", "").lower():
        return stream_events(follow(here, job, key))
    try:
        return reply(await finish(here.models, job, request))
    finally:
        here.jobs.pop(key)


def address_files(result: Result) -> Result:
    """Return a result in which files are addresses."""

    def address(name: str) -> str:
        return api_address("results", result.id, name)

    images = [replace(each, url=address(each.url), file=address(each.file)) for each in result.images]
    return replace(
        result,
        images=images,
        sheet=address(result.sheet),
        film=result.film and address(result.film),
        record=address(result.record),
        archive=address(result.archive),
    )


def answer_file(path: Path) -> Response:
    """Return an answer that contains a file of a result."""
    try:
        content = path.read_bytes()
    except OSError:
        raise Refused(404, "this result was removed because newer ones took its place") from None
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    save = {"Content-Disposition": f'attachment; filename="{path.name}"'} if path.suffix == ".zip" else {}
    return Response(content, headers=save, media_type=kind)


# The images that an edit starts from


def find_start(store: ResultStore, source: object) -> Path:
    """Return the file of {"upload": ID} or {"result": ID, "name": NAME}.

    Raises:
        Refused: if there is no such file.
    """
    if not isinstance(source, dict) or not all(isinstance(value, str) for value in source.values()):
        raise Refused(422, "a source must be an upload, or a result and a name")
    if "upload" in source:
        kept = store.kept.get(source["upload"])
        if kept is None or kept.content is not None:
            raise Refused(404, "this upload does not exist, or was removed because newer ones took its place")
        return kept.folder / next(iter(kept.names))
    return store.find(source.get("result", ""), source.get("name", ""))


def copy_into(folder: Path, file: Path, name: str = "") -> Path:
    """Copy a file into the folder of a result, so that its archive holds it, and return the copy."""
    path = folder / (name or file.name)
    while path.exists():
        path = path.with_stem(f"{path.stem}-2")
    path.write_bytes(file.read_bytes())
    return path


def describe_sources(store: ResultStore, sources: list[dict[str, str]]) -> str:
    """Return the commands that make the images which an edit starts from, "" if all are uploads."""
    made = dict.fromkeys(source["result"] for source in sources if "result" in source)
    return "".join(f"{store.kept[key].content.command} --out .\n" for key in made if store.kept[key].content)


def check_image(data: bytes) -> tuple[int, int]:
    """Return the width and the height of an uploaded image.

    Raises:
        Refused: if it cannot be decoded.
    """
    from ddim.data.decode import UnusableError, decode_image, hide_warnings, read_header

    try:
        with hide_warnings():
            header = read_header(data)
            channels = 3 if header.values == "uint8" else header.channels
            decode_image(data, (64, 64), channels, header.values)
    except UnusableError as error:
        raise Refused(422, f"this image cannot be used: {error}") from None
    return header.width, header.height


# Answers to long work


async def finish(models: ModelThread, job: Job, request: Request) -> Any:  # noqa: ANN401 (any result)
    """Return the result of a job; cancel it if the client leaves.

    Raises:
        Refused: if the job fails, or the client leaves.
    """
    ending = asyncio.create_task(job.ended.wait())
    try:
        while not (await asyncio.wait({ending}, timeout=0.5))[0]:
            if await request.is_disconnected():
                job.cancelled = True
                raise Refused(499, "the client left")
    finally:
        ending.cancel()
        job.cancelled = not job.ended.is_set()
    return await models.finish(job)


async def follow(here: Server, job: Job, key: str) -> AsyncGenerator[tuple[str, Any]]:
    """Yield the events of a job, the first with its id; cancel it if the client leaves."""
    try:
        yield "begun", {"job": key}
        async for event in job.events():
            yield event
    finally:
        job.cancelled = not job.ended.is_set()
        here.jobs.pop(key)


def stream_events(events: AsyncGenerator[tuple[str, Any]]) -> StreamingResponse:
    """Return an answer that sends events as they come, and ends the generator when the client leaves."""

    async def encode() -> AsyncGenerator[bytes]:
        coming = asyncio.ensure_future(anext(events))
        try:
            while True:
                done, _ = await asyncio.wait({coming}, timeout=QUIET)
                if not done:
                    yield b":\n\n"
                    continue
                try:
                    name, data = coming.result()
                except StopAsyncIteration:
                    return
                text = json.dumps(as_plain(data), allow_nan=False, separators=(",", ":"))
                yield f"event: {name}\ndata: {text}\n\n".encode()
                coming = asyncio.ensure_future(anext(events))
        finally:
            coming.cancel()
            await asyncio.wait({coming})
            await events.aclose()

    return StreamingResponse(encode(), headers={"X-Accel-Buffering": "no"}, media_type="text/event-stream")
