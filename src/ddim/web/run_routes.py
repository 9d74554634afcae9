"""The addresses of runs: the list, one run, its curves, log and pictures; rename, delete, compare."""

import asyncio
import shutil
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from ddim.errors import UserError
from ddim.evaluation.compare import compare
from ddim.experiments.report import report
from ddim.files import write_atomic
from ddim.metrics.catalogue import METRICS
from ddim.web.answers import EventStream, Refused, encode_events, reply
from ddim.web.details import Details, describe_details, list_pictures, read_curves
from ddim.web.runs import NOTE, Row, check_folder_name, name_id
from ddim.web.state import Allowed, Here, Server

EVERY = 2.0
"""Seconds between two looks at the runs for the stream of changes."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
"""The content security policy of a report, a file with its style and its pictures, and without scripts."""


@dataclass(frozen=True)
class Runs:
    """The list of runs."""

    runs: list[Row]


class Change(BaseModel):
    """A new name or a new note of a run."""

    name: str = Field("", max_length=200)
    note: str | None = None


Chosen = Annotated[list[str], Query(alias="run", max_length=64)]
"""The ids of the runs to compare."""


router = APIRouter()


@router.get("/runs", response_model=Runs)
def show_runs(here: Here) -> Response:
    """List the runs."""
    return reply(Runs([known.row for known in here.runs.read().values()]))


@router.get("/events", status_code=200, response_class=EventStream, responses={200: {"model": Runs}})
async def stream_runs(here: Here) -> Response:
    """Stream the list of runs: now, and whenever it has changed."""
    return EventStream(encode_events(watch_runs(here)))


async def watch_runs(here: Server) -> AsyncGenerator[tuple[str, Any]]:
    """Yield the list of runs, or why it cannot be read, whenever this has changed; see `EVERY`."""
    sent: tuple[str, Any] | None = None
    while True:
        try:
            known = await asyncio.to_thread(here.runs.read)
            event = "runs", Runs([each.row for each in known.values()])
        except (OSError, UserError) as error:
            event = "failed", {"error": f"the folder of the runs cannot be read: {error}"}
        if event != sent:
            yield event
        sent = event
        await asyncio.sleep(EVERY)


@router.get("/runs/{run}", response_model=Details)
def show_run(run: str, here: Here) -> Response:
    """Describe a run."""
    known = here.runs.find(run)
    details, change = describe_details(known, here.runs.read()), here.may_change(known)
    doing, child = here.processes.list_names(known.run.path), here.processes.find(known.run.path)
    said = ""
    if child and child.state == "running":
        said = child.last_line
    facts = {"doing": ", ".join(doing), "said": said, "can_change": change}
    return reply(Details(**vars(known.row), **details, **facts))


@router.get("/runs/{run}/curves", response_model=dict[str, Any])
def show_curves(run: str, here: Here) -> Response:
    """Return the curves of a run and the end of its log."""
    return reply(read_curves(here.runs.find(run).run.path))


@router.get("/runs/{run}/pictures/{name}", response_class=Response)
def show_picture(run: str, name: str, here: Here) -> Response:
    """Return a picture of a run; see `list_pictures`."""
    path = list_pictures(here.runs.find(run).run.path).get(name)
    if path is None:
        raise Refused(404, "there is no such picture")
    return Response(path.read_bytes(), media_type=f"image/{path.suffix[1:]}")


@router.patch("/runs/{run}", response_model=Row)
def change_run(run: str, here: Allowed, change: Change) -> Response:
    """Rename a run, or write a note about it."""
    path = here.find_changeable(run).run.path
    if change.note is not None:
        write_atomic(path / NOTE, change.note[:2000].encode())
    if change.name:
        new = path.parent / change.name
        check_folder_name(change.name)
        if new.exists():
            raise Refused(422, f"{change.name[:80]} is taken")
        here.processes.forget(path)
        path = path.rename(new)
    return reply(here.runs.read(now=True)[name_id(path, here.runs.folder)].row)


@router.delete("/runs/{run}", status_code=204)
def delete_run(run: str, here: Allowed) -> Response:
    """Delete a run with all its files, or only the link if it is a link to another drive."""
    path = here.find_changeable(run).run.path
    here.processes.forget(path)
    if path.exists():  # a training that failed at its start has left nothing
        path.unlink() if path.is_symlink() else shutil.rmtree(path)
    here.runs.read(now=True)
    return Response(None, 204)


@router.get("/compare", response_model=dict[str, Any])
async def rank_runs(request: Request, here: Here, chosen: Chosen, metric: str = "kid") -> Response:
    """Rank the evaluations of runs that their rows show, by a metric, as `ddim compare --json` does.

    In the answer, `runs` are the ids of the rows of `comparison`, and `excluded` those of runs that do not
    exist, or have no evaluation.
    """
    if metric not in METRICS:
        raise Refused(422, f"metric must be one of {', '.join(METRICS)}")
    known, keys = await asyncio.to_thread(here.runs.read), [*dict.fromkeys(chosen)]
    shown = {key: known[key].shown for key in keys if key in known}
    judged = {each.folder: key for key, each in shown.items() if each}
    excluded = [key for key in keys if key not in judged.values()]
    if len(judged) < 2:
        return reply({"comparison": None, "runs": [], "excluded": excluded})

    def work(_job: object) -> dict[str, Any]:
        try:
            return compare(*judged, metric=metric).to_json()
        except UserError as error:  # that nothing can be ranked is an answer
            return {"verdict": str(error), "rows": [], "choices": {}}

    found = await here.records.finish(here.records.submit(work), request)
    ranked = [judged[Path(row["folder"])] for row in found["rows"]]
    return reply({"comparison": found, "runs": ranked, "excluded": excluded})


@router.get("/sweeps/{sweep}/report", response_class=Response)
async def show_report(sweep: str, request: Request, here: Here) -> Response:
    """Return the report on a sweep."""
    known = await asyncio.to_thread(here.runs.read)
    places = [each.run.sweep for each in known.values() if each.run.sweep and each.row.sweep == sweep]
    if not places:
        raise Refused(404, "there is no sweep of this name")

    def work(_job: object) -> str:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "report.html"
            report(places[0], out=file)
            return file.read_text(encoding="utf-8")

    content = await here.records.finish(here.records.submit(work), request)
    return Response(content, headers={"Content-Security-Policy": POLICY}, media_type="text/html")
