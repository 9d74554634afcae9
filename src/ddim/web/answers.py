"""The answers of the server as JSON, and the error that carries a status."""

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ddim.cli.output import to_plain
from ddim.errors import UserError

log = logging.getLogger("ddim.web")

INTERFACE = "/api"
"""The start of all addresses of the interface; the others are those of the page."""

RETRY_SECONDS = 2
"""Seconds after which a client may repeat a request that was refused because the server was busy."""


SENTENCES = {
    "Not Found": "there is nothing at this address; the page is at /",
    "Method Not Allowed": "this address does not take requests of this method; see /api/openapi.json",
}
"""What users read in place of the bare words of the framework."""


class Refused(HTTPException):  # noqa: N818 (an answer, not a fault of the server)
    """Raised if a request cannot be answered; `detail` is one sentence for the user."""


@dataclass(frozen=True)
class Problem:
    """The body of every error answer."""

    error: str


@dataclass(frozen=True)
class Started:
    """The id of the run or the result on which the server works now."""

    id: str


def reply(content: object, status: int = 200) -> Response:
    """Return an answer with a dataclass, mapping, list or plain value as JSON; see `to_json`."""
    headers = {"Retry-After": str(RETRY_SECONDS)} if status in (429, 503) else None
    return Response(to_json(content), status, headers, "application/json")


def describe_failure(error: BaseException) -> tuple[int, str]:
    """Return the HTTP status and one sentence for the user about a request that failed."""
    match error:
        case HTTPException():
            return error.status_code, SENTENCES.get(error.detail, error.detail)
        case RequestValidationError():
            first, *_ = error.errors()
            place = [str(part)[:80] for part in first["loc"] if part not in ("body", "query", "path")]
            return 422, ": ".join([*place, str(first["msg"])])[:500]
        case UserError():
            return 422, str(error)
        case ClientDisconnect():
            return 499, "the client left"
    log.error("a request failed", exc_info=error)
    return 500, f"the server failed at this request: {type(error).__name__}; its log has the reason"


async def answer_error(request: Request, error: Exception) -> Response:
    """Return the answer to a failed request; outside the interface, a browser shows it as plain text."""
    status, sentence = describe_failure(error)
    if not request.url.path.startswith(INTERFACE):
        return PlainTextResponse(sentence, status)
    return reply(Problem(sentence), status)


def to_json(content: object) -> str:
    """Return JSON in which dataclasses are objects, and numbers that are not finite are null.

    Text may contain any character, even the unpaired surrogates that Python puts into undecodable file names.
    """
    return json.dumps(to_plain(content), separators=(",", ":"))


class EventStream(StreamingResponse):
    """An answer that sends events as they come; see `encode_events`."""

    media_type = "text/event-stream"


async def encode_events(events: AsyncGenerator[tuple[str, Any]]) -> AsyncGenerator[str]:
    """Yield the text of each event, which has a name and data; end the events when the client leaves."""
    async with aclosing(events):
        async for name, data in events:
            yield f"event: {name}\ndata: {to_json(data)}\n\n"
