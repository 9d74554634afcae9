"""A uvicorn server whose every error is JSON."""

from __future__ import annotations

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

_CONNECTIONS = 1000
"""The largest number of connections at the same time; requests on further connections are refused."""


class _Protocol(H11Protocol):
    def send_400_response(self, msg: str) -> None:
        """Send the error as JSON, like all others, to a client whose request is not HTTP."""
        content = b'{"error":"this is not an HTTP request, or its headers are too long"}'
        if self.transport is not None and not self.transport.is_closing():
            head = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
            start = f"HTTP/1.1 400 Bad Request\r\n{head}Connection: close\r\n\r\n"
            self.transport.write(start.encode() + content)
            self.transport.close()


def make_server(app: ASGIApp) -> uvicorn.Server:
    """Return a uvicorn server for an application; the caller starts the server with open sockets."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=_Protocol,
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
