"""The FastAPI application: its routes, its error answers and the files of the page."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ddim import __version__
from ddim.web.answers import Problem, Refused, refuse, reply
from ddim.web.comparison_routes import add_comparison_routes
from ddim.web.explainer import Explainer
from ddim.web.guard import Guard
from ddim.web.model_worker import ModelWorker
from ddim.web.results import ResultStores
from ddim.web.rows import show_text
from ddim.web.run_feed import RunFeed
from ddim.web.run_list import RunList
from ddim.web.run_routes import add_run_routes
from ddim.web.sample_routes import Services, add_sample_routes
from ddim.web.settings import Settings
from ddim.web.training_routes import add_training_routes
from ddim.web.trainings import Trainings

STATIC = Path(__file__).parent / "static"
"""The files of the page."""
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_TYPES |= {".png": "image/png", ".ico": "image/x-icon", ".json": "application/json"}

_STATUSES = (400, 401, 403, 404, 408, 409, 413, 422, 429, 503, 504)


@dataclass(frozen=True)
class Health:
    """The answer of /healthz: the server works."""

    ok: bool = True


@dataclass(frozen=True)
class ShownLimits:
    """The limits on requests that the page shows."""

    images: int
    steps: int
    work: int
    upload_bytes: int


@dataclass(frozen=True)
class About:
    """The server: its version, its folders, whether it may train, and its limits."""

    version: str
    folder: str
    data_folder: str | None
    may_train: bool
    limits: ShownLimits


def build_application(settings: Settings, trainings: Trainings | None = None) -> Guard:
    """Return the ASGI application of a server, behind its `Guard`.

    Args:
        settings: the settings of the server.
        trainings: starts and stops the trainings; by default a new object. Pass your own object to ask it
            later which trainings still run.
    """
    trainings = trainings or Trainings(settings)
    limits = settings.limits
    feed, worker = RunFeed(RunList(settings.folder)), ModelWorker(limits)
    stores = ResultStores(limits.results, limits.uploads)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        await worker.start(warm=settings.warm)
        try:
            yield
        finally:
            await worker.stop()
            stores.close()
            trainings.release()

    app = FastAPI(
        title="ddim",
        version=__version__,
        description="The training runs of ddim: their state, and samples of their models.",
        # FastAPI's own pages of documentation load scripts from another server.
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(Exception, _answer_fault)
    router = APIRouter(prefix="/api", responses={status: {"model": Problem} for status in _STATUSES})
    _add_about(app, router, settings)
    services, explain = Services(feed, worker, stores, limits), Explainer(worker)
    add_sample_routes(router, services)
    add_training_routes(router, services, explain, trainings, settings)
    add_comparison_routes(router, services)
    add_run_routes(router, feed, explain, trainings)
    app.include_router(router)
    _add_static(app)
    return Guard(app, settings)


def _add_about(app: FastAPI, router: APIRouter, settings: Settings) -> None:
    @app.get("/healthz", response_model=Health)
    async def show_health() -> Response:
        return reply(Health())

    @router.get("/about", response_model=About)
    async def show_about() -> Response:
        limits = settings.limits
        folder, data = settings.folder.resolve().name, settings.data
        name = None if data is None else show_text(data.resolve().name)
        shown = ShownLimits(limits.images, limits.steps, limits.work, limits.upload_bytes)
        return reply(About(__version__, show_text(folder), name, settings.may_train, shown))


def _add_static(app: FastAPI) -> None:
    """Serve the files of the page: /NAME for each file in `static`, and index.html at /."""

    def find(name: str) -> Path | None:
        # The file is looked up in a list, so that no name can lead outside the folder.
        files = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.is_file()}
        path = files.get(name)
        return path if path is not None and path.suffix in _TYPES else None

    async def answer(request: Request, name: str) -> Response:
        path = find(name)
        if path is None:
            raise Refused(404, "there is no such page")
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(None, 304, headers)
        return Response(content, headers=headers, media_type=_TYPES[path.suffix])

    @app.get("/", include_in_schema=False)
    async def show_index(request: Request) -> Response:
        return await answer(request, "index.html")

    @app.get("/{name:path}", include_in_schema=False)
    async def show_file(request: Request, name: str) -> Response:
        return await answer(request, name.removeprefix("static/"))


async def _answer_http(_request: Request, error: Exception) -> Response:
    if isinstance(error, Refused):
        return refuse(error)
    if not isinstance(error, HTTPException):
        return await _answer_fault(_request, error)
    sentences = {404: "there is no such address", 405: "this address does not support this HTTP method"}
    answer = reply(Problem(sentences.get(error.status_code, str(error.detail))), error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _answer_invalid(_request: Request, error: Exception) -> Response:
    """Return one sentence about the first thing that is wrong with a request."""
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    first = faults[0] if faults else {"loc": (), "msg": "it cannot be read"}
    place = [str(part)[:80] for part in first["loc"] if part not in ("body", "query", "path")]
    message = str(first["msg"]).removeprefix("Value error, ")
    where = ".".join(place)
    return reply(Problem(show_text(f"{where}: {message}" if where else message)[:500]), 422)


async def _answer_fault(_request: Request, _error: Exception) -> Response:
    return refuse(Refused(503, "the server failed at this request; its log has the reason"))
