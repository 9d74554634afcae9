"""Check every request before the application gets it.

`Guard` checks the host name, the origin, the token and the size of the body. It adds the security headers
to each answer. It answers an unexpected error with one sentence, and logs each request.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import socket
import time
from collections import Counter
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fastapi import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ddim.web.answers import Refused, refuse
from ddim.web.settings import Settings, is_loopback

log = logging.getLogger("ddim.web")

COOKIE = "ddim_token"
UPLOADS = "/api/uploads"
READS = ("GET", "HEAD", "OPTIONS")

POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""The content security policy of the page.

The page runs only its own files: no code inside its HTML, and nothing from other servers.
"""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
"""The headers that every answer gets, unless the answer sets them itself."""


@dataclass
class ClientRequest:
    """A request that is being checked and answered.

    Attributes:
        scope: the request as ASGI describes it.
        headers: its headers.
        status: the status of the answer, 0 before the answer begins.
    """

    scope: Scope
    headers: Headers
    status: int = 0

    @property
    def client(self) -> str:
        """The address of the client."""
        return client_address(self.scope)


def client_address(scope: Scope) -> str:
    """Return the address of the client of a request; headers that a client can forge are not used."""
    return (scope.get("client") or ("unknown", 0))[0]


class Guard:
    """Passes allowed requests on to an application, and answers all others itself."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self.names = _list_names(settings.host)
        self.open_requests: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; the arguments are those of an ASGI application."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request, start = ClientRequest(scope, Headers(scope=scope)), time.monotonic()
        connection = _Connection(request, self.settings, receive, send)
        self.open_requests[request.client] += 1
        try:
            await self._answer(request, connection)
        finally:
            self.open_requests -= Counter([request.client])
            seconds = time.monotonic() - start
            # The query is left out, because it can hold the token.
            path = scope["path"][:200].encode("unicode_escape").decode()
            words = (request.client, scope["method"], path, request.status or "-", 1000 * seconds)
            log.info("%s %s %s %s %.0f ms", *words)

    async def _answer(self, request: ClientRequest, connection: _Connection) -> None:
        try:
            answer = self._check(request)
            if answer is None:
                await self.app(request.scope, connection.receive, connection.send)
                return
        except Refused as refused:
            answer = refuse(refused)
        except ConnectionError:
            return
        except Exception:
            log.exception("a request failed")
            answer = refuse(Refused(503, "the server failed at this request; its log has the reason"))
        # If the answer has begun, it cannot be replaced; the server closes the connection.
        if not request.status:
            await answer(request.scope, connection.receive, connection.send)

    def _check(self, request: ClientRequest) -> Response | None:
        """Return the guard's own answer, or None if the request may go on to the application.

        Raises:
            Refused: if the request is not allowed.
        """
        limits = self.settings.limits
        if self.open_requests[request.client] > limits.client_requests:
            raise Refused(
                429, f"at most {limits.client_requests} requests of one client are answered at once"
            )
        if self.open_requests.total() > limits.requests:
            raise Refused(503, "the server answers too many requests at once; try again")
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not self._knows(hosts[0]):
            raise Refused(400, "this server is not known by the name in the header Host; see --host")
        if request.scope["method"] not in READS:
            _check_origin(request.headers, hosts[0])
        length = request.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length[:20]) > self._most(request):
            raise Refused(413, f"the body may have at most {self._most(request):,} bytes")
        return self._check_token(request)

    def _most(self, request: ClientRequest) -> int:
        return body_limit(self.settings, request.scope["path"])

    def _knows(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.names:
            return True
        # Anybody can make a host name point to this address (DNS rebinding), so names must be known.
        return not is_loopback(self.settings.host) and _is_address(name)

    def _check_token(self, request: ClientRequest) -> Response | None:
        token, scope = self.settings.token, request.scope
        if token is None or scope["path"] == "/healthz":
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=None)
        if scope["path"] == "/" and scope["method"] == "GET" and "token" in query:
            if not _equal(query["token"][-1], token):
                raise Refused(401, "the token in this address is wrong; `ddim serve` prints the address")
            cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
            return Response(None, 303, {"Location": "/", "Set-Cookie": cookie})
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else _read_cookie(request.headers)
        if not _equal(given, token):
            raise Refused(401, "this page needs its token: open the address that `ddim serve` printed")
        return None


class _Connection:
    """Wraps the `receive` and `send` functions of one request with a limit of size."""

    def __init__(self, request: ClientRequest, settings: Settings, receive: Receive, send: Send) -> None:
        self.request = request
        self._receive, self._send = receive, send
        self._most = body_limit(settings, request.scope["path"])
        self._read = 0

    async def receive(self) -> Message:
        """Return the next message of the client.

        Raises:
            Refused: if the body is too large.
        """
        message = await self._receive()
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            if self._read > self._most:
                raise Refused(413, f"the body may have at most {self._most:,} bytes")
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer, with the security headers."""
        if message["type"] == "http.response.start":
            self.request.status = message["status"]
            headers = MutableHeaders(raw=[*message.get("headers", [])])
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            message = {**message, "headers": headers.raw}
        await self._send(message)


def body_limit(settings: Settings, path: str) -> int:
    """Return the largest number of bytes in the body of a request to a path."""
    return settings.limits.upload_bytes if path == UPLOADS else settings.limits.json_bytes


def _list_names(host: str) -> set[str]:
    """Return the names under which a browser may know this server."""
    names = {"localhost", "127.0.0.1", "::1", host.lower()}
    return names if is_loopback(host) else names | {socket.gethostname().lower()}


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_origin(headers: Headers, host: str) -> None:
    """Check that this page or a program sent a request, and not another site.

    Call this only for requests that change something.

    Raises:
        Refused: if a browser sent the request for another site.
    """
    origins, site = headers.getlist("origin"), headers.get("sec-fetch-site", "none")
    own = {f"http://{host}".lower(), f"https://{host}".lower()}
    if len(origins) > 1 or any(origin.lower() not in own for origin in origins):
        raise Refused(403, "a page of another address sent this request")
    if site not in ("same-origin", "none"):
        raise Refused(403, "a page of another address sent this request")


def _read_cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _equal(given: Any, token: str) -> bool:  # noqa: ANN401 (what a client sent)
    """Return whether a token is right; the duration of the comparison tells nothing about the token."""
    one, other = (hashlib.sha256(str(text).encode("utf-8", "replace")).digest() for text in (given, token))
    return hmac.compare_digest(one, other)
