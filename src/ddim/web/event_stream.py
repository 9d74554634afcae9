"""Send server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from fastapi import Response
from starlette.types import Receive, Scope, Send

from ddim.web.answers import as_plain

EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}
"""The OpenAPI description of an answer that is a stream of events."""

QUIET = 15.0
"""Seconds without an event after which a comment is sent, so that no proxy closes the connection."""


@dataclass(frozen=True)
class Event:
    """An event: its name, and its data, which is sent as JSON."""

    name: str
    data: object

    def encode(self) -> bytes:
        """Return the bytes of the event in the format of server-sent events."""
        text = json.dumps(as_plain(self.data), allow_nan=False, separators=(",", ":"))
        return f"event: {self.name}\ndata: {text}\n\n".encode()


class EventStream(Response):
    """An HTTP response that sends events as they come.

    If the client disconnects, the generator of the events is closed immediately.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[Event, None]) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        self._events = events
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; the arguments are those of an ASGI application."""
        leaving = asyncio.create_task(wait_until_left(receive))
        coming: asyncio.Task[Event] | None = None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while True:
                coming = coming or asyncio.create_task(anext(self._events))
                await asyncio.wait({coming, leaving}, timeout=QUIET, return_when=asyncio.FIRST_COMPLETED)
                if leaving.done():
                    return
                try:
                    content = coming.result().encode() if coming.done() else b":\n\n"
                except StopAsyncIteration:
                    break
                coming = None if coming.done() else coming
                await send({"type": "http.response.body", "body": content, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            leaving.cancel()
            if coming is not None:
                coming.cancel()
                await asyncio.wait({coming})
            await self._events.aclose()


async def wait_until_left(receive: Receive) -> None:
    """Wait until the client has closed the connection; ignore what it sends before."""
    while (await receive())["type"] != "http.disconnect":
        pass
