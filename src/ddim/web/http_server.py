"""A uvicorn server with a time limit for the headers of each request; uvicorn itself has no such limit."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from ddim.web.settings import Limits

_CONNECTIONS = 1000
"""The largest number of connections at the same time; requests on further connections are refused."""


def make_protocol(limits: Limits) -> type[H11Protocol]:
    """Return uvicorn's HTTP protocol, which also closes a connection whose next request comes too slowly.

    Without this limit, a client that sends a byte now and then could keep a connection open for ever (a slow
    loris attack).
    """

    class TimedProtocol(H11Protocol):
        def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 (uvicorn's own)
            super().__init__(*args, **options)
            self._head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:  # noqa: ANN401 (asyncio's own)
            super().connection_made(transport)
            self._watch_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch_head()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget_timer()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            """Send the error answer, as JSON like all other errors, to a client whose request is not
            HTTP, or whose headers are too long.
            """
            content = b'{"error":"this is not an HTTP request, or its headers are too long"}'
            if self.transport is not None and not self.transport.is_closing():
                head = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
                start = f"HTTP/1.1 400 Bad Request\r\n{head}Connection: close\r\n\r\n"
                self.transport.write(start.encode() + content)
                self.transport.close()

        def _watch_head(self) -> None:
            """Run the timer while the connection waits for a request, and stop it while a request is
            answered.
            """
            busy = self.cycle is not None and not self.cycle.response_complete
            if busy:
                self._forget_timer()
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(limits.head_seconds, self._cut)

        def _forget_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _cut(self) -> None:
            self._head_timer = None
            if self.transport is not None and not self.transport.is_closing():
                self.transport.abort()

    return TimedProtocol


def make_server(app: ASGIApp, limits: Limits) -> uvicorn.Server:
    """Return a uvicorn server for an application; the caller starts the server with open sockets."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=make_protocol(limits),
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            # The address in a header such as X-Forwarded-For could be forged.
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=32 * 2**10,
        )
    )
