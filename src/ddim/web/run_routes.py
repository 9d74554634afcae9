"""The addresses of runs: the list, one run, its curves, log and pictures; rename, delete, compare."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from ddim.errors import UserError
from ddim.files import is_locked, shorten_paths, write_atomic
from ddim.metrics.catalogue import METRICS
from ddim.runs.folder import CHECKPOINTS
from ddim.web.answers import Refused, reply
from ddim.web.details import Curves, Details, describe_details, find_picture, read_curves, read_log
from ddim.web.image_routes import EVENTS, stream_events
from ddim.web.runs import NOTE, ListedRun, Row, Sweep, name_id
from ddim.web.state import Here, Server

T = TypeVar("T")

EVERY = 2.0
"""Seconds between two looks at the runs for the stream of changes."""

REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
)
"""The content security policy of a report, a file with its style and its pictures, and without scripts."""


@dataclass(frozen=True)
class Runs:
    """The list of runs."""

    runs: list[Row]
    sweeps: list[Sweep]


@dataclass(frozen=True)
class Shown(Details):
    """The details of a run, and what this server may do with it."""

    doing: str = ""
    can_stop: bool = False
    can_resume: bool = False
    can_change: bool = False


@dataclass(frozen=True)
class Log:
    """The last lines of the log."""

    lines: list[dict[str, Any]]


class Change(BaseModel):
    """A new name or a new note of a run."""

    name: str = Field("", max_length=200)
    note: str | None = None


Chosen = Annotated[list[str], Query(alias="run", max_length=64)]
"""The ids of the runs to compare."""


@dataclass(frozen=True)
class Ranking:
    """Runs ranked by a metric, as `ddim compare --json` does; `runs` are the ids of the rows.

    `excluded` has the ids of runs without an evaluation.
    """

    comparison: dict[str, Any] | None
    runs: list[str]
    excluded: list[str]


router = APIRouter()


@router.get("/runs", response_model=Runs)
def show_runs(here: Here) -> Response:
    """List the runs and the sweeps."""
    rows = [show_row(here, known) for known in here.runs.read().values()]
    return reply(Runs(rows, [sweep for _, sweep in here.runs.sweeps().values()]))


def show_row(here: Server, known: ListedRun) -> Row:
    """Return the row of a run; if the last command of this server on the run failed, it says why."""
    failure = here.processes.failure(known.run.path)
    return replace(known.row, why=known.row.why or failure) if failure else known.row


@router.get("/events", response_class=Response, responses=EVENTS)
async def stream_runs(here: Here) -> Response:
    """Stream the rows that change: all rows first."""
    return stream_events(watch_runs(here))


async def watch_runs(here: Server) -> AsyncGenerator[tuple[str, Any]]:
    """Yield the rows that changed and the ids of the runs that are gone, at most every two seconds."""
    sent: dict[str, Row] | None = None
    while True:
        known = await asyncio.to_thread(here.runs.read)
        rows = {key: show_row(here, each) for key, each in known.items()}
        before = sent or {}
        changed = [row for key, row in rows.items() if before.get(key) != row]
        gone = [key for key in before if key not in rows]
        if changed or gone or sent is None:
            yield "runs", {"changed": changed, "gone": gone}
        sent = rows
        await asyncio.sleep(EVERY)


@router.get("/runs/{run}", response_model=Shown)
def show_run(run: str, here: Here) -> Response:
    """Describe a run."""
    known = here.runs.find(run)
    details = _read(known, lambda: describe_details(known, here.runs.read()))
    path, state, alone = known.run.path, known.run.state, known.run.sweep is None
    doing = [child.name for child in here.processes.running if child.folder == path]
    saved, may = (path / CHECKPOINTS).is_dir(), here.settings.may_train
    facts = vars(details) | {
        "why": show_row(here, known).why,
        "doing": ", ".join(doing),
        "can_stop": may and state == "running" and bool(doing),
        "can_resume": may and alone and saved and state in ("stopped", "finished"),
        "can_change": may and alone and path != here.settings.folder,
    }
    return reply(Shown(**facts))


@router.get("/runs/{run}/curves", response_model=Curves)
def show_curves(run: str, here: Here) -> Response:
    """Return the curves of a run."""
    known = here.runs.find(run)
    return reply(_read(known, lambda: read_curves(known.run.path)))


@router.get("/runs/{run}/log", response_model=Log)
def show_log(run: str, here: Here) -> Response:
    """Return the end of the log of a run."""
    known = here.runs.find(run)
    return reply(Log(_read(known, lambda: read_log(known.run.path))))


@router.get("/runs/{run}/{kind}", response_class=Response)
@router.get("/runs/{run}/{kind}/{name}", response_class=Response)
def show_picture(run: str, kind: str, here: Here, name: str = "") -> Response:
    """Return a picture of a run; see `find_picture`."""
    known = here.runs.find(run)
    content = _read(known, lambda: find_picture(known.run.path, kind, name).read_bytes())
    return Response(content, media_type="image/webp" if kind == "films" else "image/png")


@router.patch("/runs/{run}", response_model=Row)
def change_run(run: str, here: Here, change: Change) -> Response:
    """Rename a run, or write a note about it."""
    path = find_unused(here, run).run.path
    if change.note is not None:
        write_atomic(path / NOTE, change.note[:2000].encode())
    if change.name:
        new = path.parent / change.name
        if Path(change.name).name != change.name or change.name.startswith(".") or new.exists():
            raise Refused(422, f"{change.name[:80]} is taken, or is not the name of a folder")
        path = path.rename(new)
    return reply(here.runs.read(now=True)[name_id(path, here.runs.folder)].row)


@router.delete("/runs/{run}", status_code=204)
def delete_run(run: str, here: Here) -> Response:
    """Delete a run with all its files."""
    shutil.rmtree(find_unused(here, run).run.path)
    here.runs.read(now=True)
    return Response(None, 204)


def find_unused(here: Server, run: str) -> ListedRun:
    """Return a run that may be changed.

    Raises:
        Refused: if the page may not change it, or it is in use.
    """
    here.check_allowed()
    known = here.runs.find(run)
    if known.run.sweep is not None or known.run.path == here.settings.folder:
        raise Refused(409, "this run belongs to a sweep, or is the folder of the page")
    if is_locked(known.run.path) or any(c.folder == known.run.path for c in here.processes.running):
        raise Refused(409, "this run is in use: stop it first")
    return known


@router.get("/compare", response_model=Ranking)
async def rank_runs(here: Here, chosen: Chosen, metric: str = "kid") -> Response:
    """Rank the newest evaluations of runs by a metric."""
    if metric not in METRICS:
        raise Refused(422, f"metric must be one of {', '.join(METRICS)}")
    known = [await asyncio.to_thread(here.runs.find, key) for key in dict.fromkeys(chosen)]
    judged = {each.run.evaluations[-1].folder: each.row.id for each in known if each.run.evaluations}
    excluded = [each.row.id for each in known if not each.run.evaluations]
    if len(judged) < 2:
        return reply(Ranking(None, [], excluded))

    def work(_job: object) -> dict[str, Any]:
        from ddim.evaluation.compare import compare

        return compare(*judged, metric=metric).to_json()

    found = await here.models.finish(here.models.submit(work))
    return reply(Ranking(found, [judged[Path(row["folder"])] for row in found["rows"]], excluded))


@router.get("/sweeps/{sweep}/report", response_class=Response)
async def show_report(sweep: str, here: Here) -> Response:
    """Return the report on a sweep."""
    places = await asyncio.to_thread(here.runs.sweeps)
    if sweep not in places:
        raise Refused(404, "there is no sweep of this name")

    def work(_job: object) -> str:
        from ddim.experiments.report import report

        with TemporaryDirectory() as folder:
            file = Path(folder) / "report.html"
            report(places[sweep][0], out=file)
            return file.read_text(encoding="utf-8")

    content = await here.models.finish(here.models.submit(work))
    return Response(content, headers={"Content-Security-Policy": REPORT_POLICY}, media_type="text/html")


def _read(known: ListedRun, work: Callable[[], T]) -> T:
    """Return the result of `work`, which reads files of a run.

    Raises:
        Refused: if a file is damaged.
    """
    try:
        return work()
    except UserError as error:
        raise Refused(409, shorten_paths(str(error), known.run.path)) from None
    except (TypeError, ValueError, KeyError, LookupError, AttributeError, OSError, RecursionError) as error:
        raise Refused(409, f"a file of this run is damaged: {type(error).__name__}") from None
