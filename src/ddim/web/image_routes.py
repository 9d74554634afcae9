"""The addresses that make images: samples and edits, uploads, and the files of results."""

import asyncio
import re
import shutil
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Body, Request, Response
from fastapi.responses import FileResponse

from ddim.cli.commands import COMMANDS
from ddim.cli.signatures import read_signature
from ddim.web.answers import EventStream, Refused, Started, encode_events, reply
from ddim.web.details import find_guide
from ddim.web.images import SEEDS, UPLOAD, Result, fill_result, find_address, name_place, preview_upload
from ddim.web.jobs import Job, Step
from ddim.web.options import Text, make_model
from ddim.web.results import ResultStore
from ddim.web.state import Here, Server

Source = Annotated[dict[Literal["upload", "result", "name"], str], Body()]
"""An image to edit: {"upload": ID} or {"result": ID, "name": NAME}."""


class SampleOptions(make_model("SampleOptions", "sample", guide_with=Text)):
    """The options of `ddim sample`."""


Kind = Literal["vary", "inpaint", "interpolate", "invert"]


class EditOptions(
    make_model("EditOptions", *get_args(Kind), guide_with=Text, sources=list[Source], mask=Text)
):
    """The options of an edit, the images to edit, and the id of an uploaded mask."""


@dataclass(frozen=True)
class Upload:
    """An uploaded image: its id, its name, and the address of a small picture."""

    upload: str
    name: str
    url: str


@dataclass(frozen=True)
class Results:
    """The newest results and uploads, the oldest first."""

    results: list[Result]
    uploads: list[Upload]


router = APIRouter()
MADE: dict[str, Any] = {"response_model": Result | Step, "response_description": "The result, or its events"}
UPLOADED = {"requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string"}}}}}


@router.post("/runs/{run}/samples", **MADE)
async def make_samples(run: str, request: Request, here: Here, given: SampleOptions) -> Response:
    """Sample a run; the options are those of `ddim sample`."""
    body = {"seeds": [*SEEDS["sample"]], **given.model_dump(exclude_none=True)}
    return await begin(here, request, Result(run, "sample", body), len(body["seeds"]))


@router.post("/runs/{run}/edits/{kind}", **MADE)
async def make_edits(run: str, kind: Kind, request: Request, here: Here, given: EditOptions) -> Response:
    """Edit images; the options are those of the command `kind`."""
    body: dict[str, Any] = {"seeds": [*SEEDS[kind]]} if kind in SEEDS else {}
    body |= given.model_dump(exclude_none=True)
    if strange := body.keys() - read_signature(COMMANDS[kind]).names - {"sources"}:
        raise Refused(422, f"{min(strange)} is not an option of {kind}")
    given_images = body.get("sources", [])
    if len(given_images) not in {"interpolate": (0, 2), "invert": range(1, 65)}.get(kind, (1,)):
        raise Refused(422, f"{kind} needs another number of images than {len(given_images)}")
    count = body.get("frames", 9) if kind == "interpolate" else len(body.get("seeds", given_images))
    made = {source.get("result") for source in given_images}
    sources = [each for each in here.store.select(Result) if each.id in made]
    lines = [line for each in sources for line in f"{each.command} --out {each.place}\n".splitlines(True)]
    # Two sources may come from the same samples.
    return await begin(here, request, Result(run, kind, body, command="".join(dict.fromkeys(lines))), count)


@router.post("/uploads", response_model=Upload, openapi_extra=UPLOADED)
async def upload_image(request: Request, here: Here, name: str = "image") -> Response:
    """Keep an image under its name, so that edits can start from it."""
    folder = here.store.make()
    path = folder / (re.sub(r"[^\w.-]+", "-", Path(name).name).strip(".-")[:80] or "image")
    try:
        path.write_bytes(await request.body())
        view = await asyncio.to_thread(preview_upload, path)
    except BaseException:
        here.store.discard(folder.name)
        raise
    upload = Upload(folder.name, path.name, find_address(view))
    here.store.keep(folder, upload)
    return reply(upload)


@router.post("/jobs/{key}/stop", response_model=Started, status_code=202)
async def stop_job(key: str, here: Here) -> Response:
    """End a request now, and deliver the images that are ready."""
    if key not in here.jobs:
        raise Refused(404, "this request has ended")
    here.jobs[key].enough = True
    return reply(Started(key), 202)


@router.get("/results", response_model=Results)
async def list_results(here: Here) -> Response:
    """List the results and the uploads that are kept, the oldest first."""
    return reply(Results(here.store.select(Result), here.store.select(Upload)))


@router.get("/results/{key}/{name}", response_class=Response)
def show_result(key: str, name: str, here: Here) -> Response:
    """Return a file of a result."""
    path = here.store.find(key, name)
    return FileResponse(path, filename=name if path.suffix == ".zip" else None)


@router.delete("/results/{key}", status_code=204)
async def remove_result(key: str, here: Here) -> Response:
    """Remove a result or an upload."""
    if key not in here.store.kept:  # a name such as .. would lead out of the folder
        raise Refused(404, "this does not exist, or was removed")
    here.store.discard(key)
    return Response(None, 204)


async def begin(here: Server, request: Request, result: Result, images: int) -> Response:
    """Return the answer to a request for images, as one JSON document or as events.

    Args:
        here: the server.
        request: the request.
        result: the result to fill.
        images: number of images; how long the work takes is known only after its first steps.

    Raises:
        Refused: if the run cannot be sampled, the request is for too much, or an image to edit is gone.
    """
    limits, steps = here.settings.limits, result.request.get("steps", 1)
    known = await asyncio.to_thread(here.runs.find, result.run)
    if not 1 <= images <= limits.images:
        raise Refused(422, f"1 to {limits.images} images can be made at a time, got {images}")
    if not 1 <= steps <= limits.steps:
        raise Refused(422, f"1 to {limits.steps:,} steps can be made, got {steps:,}")
    if known.row.state == "damaged" or not known.run.facts:
        raise Refused(409, f"this run cannot be sampled: {known.row.why or 'it has not begun'}")
    options = dict(result.request)
    files = [find_given(here.store, source) for source in options.pop("sources", [])]
    if "mask" in options:
        options["mask"] = find_given(here.store, {"upload": options["mask"]})
    if "guide_with" in options:
        options["guide_with"] = await asyncio.to_thread(find_guide, options["guide_with"], known, here.runs)

    def work(job: Job) -> Result:
        folder = here.store.make(result.id)
        copies = [copy_input(folder, file, here.store) for file in files]
        if "mask" in options:
            options["mask"] = copy_input(folder, options["mask"], here.store)
        fill_result(result, job, known.run.path, folder, options, copies)
        here.store.keep(folder, result)
        return result

    def end(ended: Future[Result]) -> None:
        here.jobs.pop(result.id, None)
        if ended.exception():
            here.store.discard(result.id)

    job = here.jobs[result.id] = here.models.submit(work)
    job.ended.add_done_callback(end)
    if EventStream.media_type in request.headers.get("accept", "").lower():
        return EventStream(encode_events(here.models.follow(job, result.id)))
    return reply(await here.models.finish(job, request))


def find_given(store: ResultStore, source: dict[str, str]) -> Path:
    """Return the file of {"upload": ID} or {"result": ID, "name": NAME}.

    Raises:
        Refused: if there is no such file.
    """
    if "upload" not in source:
        return store.find(source.get("result", ""), source.get("name", ""))
    kept = store.kept.get(source["upload"])
    return store.find(source["upload"], kept.name if isinstance(kept, Upload) else "")


def copy_input(folder: Path, file: Path, store: ResultStore) -> Path:
    """Copy the image of a result or an upload into a folder of its own below `folder`; return the copy.

    So no output replaces it, and its path is the one that the shown command names. The uploads from which a
    result was made are copied too.
    """
    source = file.parent
    kept = store.kept.get(source.name)
    place = kept.place if isinstance(kept, Result) else name_place(UPLOAD, source.name)
    for upload in source.glob(f"{UPLOAD}-*"):
        shutil.copytree(upload, folder / upload.name, dirs_exist_ok=True)
    (folder / place).mkdir(exist_ok=True)
    return Path(shutil.copy(file, folder / place))
