"""Check every request before the application gets it: host name, origin, token and size of the body."""

import hmac
import ipaddress
import logging
import secrets
import socket
import time
from contextlib import suppress
from urllib.parse import urlsplit

from fastapi import Request, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ddim.web.answers import INTERFACE, Refused, answer_error
from ddim.web.settings import Settings, is_loopback

log = logging.getLogger("ddim.web")

UPLOADS = "/api/uploads"
READS = ("GET", "HEAD", "OPTIONS")

POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""The content security policy: the page runs only its own files, and nothing from other servers."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""The headers that every answer gets, unless the answer sets them itself."""


class Guard:
    """Passes allowed requests on to an application, and answers all others itself.

    Attributes:
        ticket: opens the page once in place of the token.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self.ticket = secrets.token_urlsafe(24)
        # The names under which a browser may know this server.
        self.names = {"localhost", "127.0.0.1", "::1", settings.host.lower()}
        if not is_loopback(settings.host):
            self.names.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; the arguments are those of an ASGI application."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        request, limits = Request(scope), self.settings.limits
        path, start, status, size = scope["path"], time.monotonic(), 0, 0
        most = limits.upload_bytes if path == UPLOADS else limits.json_bytes

        async def receive_some() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                raise Refused(413, f"the body may have at most {most:,} bytes")
            return message

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                # A browser keeps the files of the page, and asks whether they have changed.
                fresh = "no-cache" if path.startswith("/static/") else "no-store"
                for name, value in {**HEADERS, "Cache-Control": fresh}.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            answer = self._check(request)
            await (answer or self.app)(scope, receive_some, send_safely)
        except Refused as refused:
            # If the answer has begun, it cannot be replaced; the server closes the connection.
            if not status:
                answer = await answer_error(request, refused)
                await answer(scope, receive, send_safely)
        finally:
            if path.startswith(INTERFACE):
                # The query is left out, because it can hold the token.
                shown = path[:200].encode("unicode_escape").decode()
                client = request.client.host if request.client else "unknown"
                spent = 1000 * (time.monotonic() - start)
                log.info("%s %s %s %s %.0f ms", client, request.method, shown, status or "-", spent)

    def _check(self, request: Request) -> Response | None:
        """Return the guard's own answer, or None if the request may go on to the application.

        Raises:
            Refused: if the request is not allowed.
        """
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not self._knows(hosts[0]):
            raise Refused(400, "this server is not known by the name in the header Host; see --host")
        # A link on another site may lead to the page; only this page and programs may use the interface.
        shows_page = request.method in READS and not request.url.path.startswith(INTERFACE)
        if not shows_page and _is_foreign(request, hosts[0]):
            raise Refused(403, "a page of another address sent this request")
        return self._check_token(request)

    def _knows(self, host: str) -> bool:
        # Anybody can make a host name point to this address (DNS rebinding), so names must be known.
        with suppress(ValueError):
            parts = urlsplit(f"//{host}")
            name = parts.hostname or ""
            int(parts.port or 0)  # raises ValueError if there is no such port
            if name in self.names:
                return True
            return not is_loopback(self.settings.host) and bool(ipaddress.ip_address(name))
        return False

    def _check_token(self, request: Request) -> Response | None:
        if request.url.path == "/healthz":
            return None
        token, query = self.settings.token, request.query_params.getlist("token")
        # Browsers send a cookie to all ports of a host, so its name has the port.
        name = f"ddim_token_{request.url.port or 80}"
        opens_page = request.url.path == "/" and request.method == "GET" and bool(query)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if opens_page:
            given = query[-1]
            if _equal(given, self.ticket):
                self.ticket = secrets.token_urlsafe(24)
                given = token
        elif scheme.lower() != "bearer":
            given = request.cookies.get(name, "")
        if not _equal(given.strip(), token):
            address = "the address that `ddim serve` printed when it last started"
            raise Refused(401, f"this page needs its token: open {address}")
        if not opens_page:
            return None
        # With "Strict", a browser would lose the cookie where a page of another site links to the address.
        cookie = f"{name}={token}; HttpOnly; SameSite=Lax; Path=/"
        return Response(None, 303, {"Location": "/", "Set-Cookie": cookie})


def _is_foreign(request: Request, host: str) -> bool:
    """Return whether a page of another site or port sent a request."""
    own = (f"http://{host}".lower(), f"https://{host}".lower())
    if any(origin.lower() not in own for origin in request.headers.getlist("origin")):
        return True
    return request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none")


def _equal(given: str, token: str) -> bool:
    """Return whether a secret is right; the duration of the comparison tells nothing about it."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())
