"""The FastAPI application: its routes, its error answers and the files of the page."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ddim import __version__
from ddim.errors import UserError
from ddim.web import image_routes, run_routes, training_routes
from ddim.web.answers import Problem, Refused, refuse, reply
from ddim.web.guard import Guard
from ddim.web.jobs import ModelThread
from ddim.web.processes import Processes
from ddim.web.results import ResultStore
from ddim.web.runs import RunList, show_text
from ddim.web.settings import Limits, Settings
from ddim.web.state import Here, Server

STATIC = Path(__file__).parent / "static"
"""The files of the page."""
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
TYPES |= {".png": "image/png", ".ico": "image/x-icon", ".json": "application/json"}

STATUSES = (400, 401, 403, 404, 409, 413, 422, 429, 503, 504)


@dataclass(frozen=True)
class Health:
    """The answer of /healthz: the server works."""

    ok: bool = True


@dataclass(frozen=True)
class About:
    """The server: its version, its folders, whether it may train, and its limits."""

    version: str
    folder: str
    data_folder: str | None
    may_train: bool
    limits: Limits


router = APIRouter()


@router.get("/healthz", response_model=Health)
async def show_health() -> Response:
    """Say that the server works."""
    return reply(Health())


@router.get("/api/about", response_model=About)
async def show_about(here: Here) -> Response:
    """Describe the server."""
    settings = here.settings
    data = show_text(settings.data.resolve().name) if settings.data else None
    folder = show_text(settings.folder.resolve().name)
    return reply(About(__version__, folder, data, settings.may_train, settings.limits))


@router.get("/{name:path}", include_in_schema=False)
def show_file(request: Request, name: str) -> Response:
    """Return a file of the page."""
    return answer_static(request, name.removeprefix("static/") or "index.html")


def build_application(settings: Settings, processes: Processes | None = None) -> Guard:
    """Return the ASGI application of a server, behind its `Guard`.

    Args:
        settings: the settings of the server.
        processes: the commands that the page starts; pass your own object to ask it later which still run.
    """
    limits = settings.limits
    models, store = ModelThread(limits), ResultStore(limits.results)
    here = Server(settings, RunList(settings.folder), models, processes or Processes(), store, {})

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        await here.models.start()
        try:
            yield
        finally:
            await here.models.stop()
            here.store.close()
            here.processes.close()

    # FastAPI's own pages of documentation load scripts from another server.
    addresses = {"docs_url": None, "redoc_url": None, "openapi_url": "/api/openapi.json"}
    app = FastAPI(
        title="ddim",
        version=__version__,
        description="The training runs of ddim: their state, and samples of their models.",
        lifespan=lifespan,
        redirect_slashes=False,
        **addresses,
    )
    app.state.server = here
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(UserError, _answer_user_error)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_fault)
    problems: dict[int | str, Any] = {status: {"model": Problem} for status in STATUSES}
    for module in (image_routes, training_routes, run_routes):
        app.include_router(module.router, prefix="/api", responses=problems)
    app.include_router(router)
    return Guard(app, settings)


def answer_static(request: Request, name: str) -> Response:
    """Return a file of the page, or nothing if the browser has it already."""
    # The file is looked up in a list, so that no name can lead outside the folder.
    files = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.suffix in TYPES}
    if name not in files:
        raise Refused(404, "there is no such page")
    content = files[name].read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(None, 304, headers)
    return Response(content, headers=headers, media_type=TYPES[files[name].suffix])


async def _answer_http(_request: Request, error: Exception) -> Response:
    if isinstance(error, Refused):
        return refuse(error)
    status = error.status_code if isinstance(error, HTTPException) else 503
    sentences = {404: "there is no such address", 405: "this address does not support this HTTP method"}
    return reply(Problem(sentences.get(status, str(error))), status)


async def _answer_invalid(_request: Request, error: Exception) -> Response:
    """Return one sentence about the first thing that is wrong with a request."""
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    first = faults[0] if faults else {"loc": (), "msg": "it cannot be read"}
    place = [str(part)[:80] for part in first["loc"] if part not in ("body", "query", "path")]
    return reply(Problem(show_text(": ".join([*place, str(first["msg"])]))[:500]), 422)


async def _answer_user_error(_request: Request, error: Exception) -> Response:
    return refuse(Refused(422, str(error)))


async def _answer_nobody(_request: Request, _error: Exception) -> Response:
    return Response(None, 499)


async def _answer_fault(_request: Request, _error: Exception) -> Response:
    return refuse(Refused(503, "the server failed at this request; its log has the reason"))
