"""The FastAPI application: its routes, its error answers and the files of the page."""

import mimetypes
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ddim import __version__
from ddim.errors import UserError
from ddim.web import image_routes, run_routes, training_routes
from ddim.web.answers import Problem, answer_error, reply
from ddim.web.guard import Guard
from ddim.web.jobs import WorkThread
from ddim.web.processes import Processes
from ddim.web.results import ResultStore
from ddim.web.runs import RunList
from ddim.web.settings import Limits, Settings
from ddim.web.state import Here, Server

STATIC = Path(__file__).parent / "static"
"""The files of the page."""

STATUSES = (400, 401, 403, 404, 409, 413, 422, 429, 500, 503, 504)


@dataclass(frozen=True)
class About:
    """The server: its folders, whether it may train, and its limits."""

    folder: str
    data_folder: str | None
    may_train: bool
    limits: Limits


router = APIRouter()


@router.get("/healthz", response_model=dict[str, bool])
async def show_health() -> Response:
    """Say that the server works."""
    return reply({"ok": True})


@router.get("/api/about", response_model=About)
async def show_about(here: Here) -> Response:
    """Describe the server."""
    settings = here.settings
    folder, data = settings.folder.resolve().name, settings.data.resolve().name if settings.data else None
    return reply(About(folder, data, settings.may_train, settings.limits))


@router.get("/", include_in_schema=False)
async def show_page() -> Response:
    """Return the page."""
    return FileResponse(STATIC / "index.html")


def build_application(settings: Settings, processes: Processes | None = None) -> Guard:
    """Return the ASGI application of a server, behind its `Guard`.

    Args:
        settings: the settings of the server.
        processes: the commands that the page starts; pass your own object to ask it later which still run.
    """
    limits, commands = settings.limits, processes or Processes()
    runs, store = RunList(settings.folder, commands), ResultStore(limits.results)
    models, images, records = threads = [WorkThread(limits) for _ in range(3)]

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            for thread in threads:
                await thread.stop()
            store.close()
            commands.close()

    # FastAPI's own pages of documentation load scripts from another server.
    addresses = {"docs_url": None, "redoc_url": None, "openapi_url": "/api/openapi.json"}
    app = FastAPI(title="ddim", version=__version__, lifespan=lifespan, redirect_slashes=False, **addresses)
    app.state.server = Server(settings, runs, models, images, records, commands, store, {})
    for kind in (HTTPException, RequestValidationError, UserError, ClientDisconnect, Exception):
        app.add_exception_handler(kind, answer_error)
    problems: dict[int | str, Any] = {status: {"model": Problem} for status in STATUSES}
    for module in (image_routes, training_routes, run_routes):
        app.include_router(module.router, prefix="/api", responses=problems)
    app.include_router(router)
    # Windows may have other types for scripts, which browsers refuse to run.
    mimetypes.add_type("text/javascript", ".js")
    app.mount("/static", StaticFiles(directory=STATIC))
    return Guard(app, settings)
