"""Check every request before the application gets it: host name, origin, token and size of the body."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import socket
import time
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
"""The content security policy: the page runs only its own files, and nothing from other servers."""

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


class Guard:
    """Passes allowed requests on to an application, and answers all others itself."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings
        # The names under which a browser may know this server.
        self.names = {"localhost", "127.0.0.1", "::1", settings.host.lower()}
        if not is_loopback(settings.host):
            self.names.add(socket.gethostname().lower())
        self.open_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; the arguments are those of an ASGI application."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        start, status, left = time.monotonic(), 0, self._most_bytes(scope)

        async def receive_some() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise Refused(413, f"the body may have at most {self._most_bytes(scope):,} bytes")
            return message

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=[*message.get("headers", [])])
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                message = {**message, "headers": headers.raw}
            await send(message)

        self.open_requests += 1
        try:
            answer = self._check(scope)
            await (answer or self.app)(scope, receive_some, send_safely)
        except Refused as refused:
            # If the answer has begun, it cannot be replaced; the server closes the connection.
            if not status:
                await refuse(refused)(scope, receive, send_safely)
        finally:
            self.open_requests -= 1
            if scope["path"].startswith("/api"):
                # The query is left out, because it can hold the token.
                path = scope["path"][:200].encode("unicode_escape").decode()
                client = (scope.get("client") or ("unknown", 0))[0]
                spent = 1000 * (time.monotonic() - start)
                log.info("%s %s %s %s %.0f ms", client, scope["method"], path, status or "-", spent)

    def _check(self, scope: Scope) -> Response | None:
        """Return the guard's own answer, or None if the request may go on to the application.

        Raises:
            Refused: if the request is not allowed.
        """
        headers = Headers(scope=scope)
        if self.open_requests > self.settings.limits.requests:
            raise Refused(503, "the server answers too many requests at once; try again")
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._knows(hosts[0]):
            raise Refused(400, "this server is not known by the name in the header Host; see --host")
        if scope["method"] not in READS:
            _check_origin(headers, hosts[0])
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self._most_bytes(scope):
            raise Refused(413, f"the body may have at most {self._most_bytes(scope):,} bytes")
        return self._check_token(scope, headers)

    def _most_bytes(self, scope: Scope) -> int:
        limits = self.settings.limits
        return limits.upload_bytes if scope["path"] == UPLOADS else limits.json_bytes

    def _knows(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            # Anybody can make a host name point to this address (DNS rebinding), so names must be known.
            return name in self.names or (not is_loopback(self.settings.host) and _is_address(name))
        except ValueError:
            return False

    def _check_token(self, scope: Scope, headers: Headers) -> Response | None:
        token = self.settings.token
        if token is None or scope["path"] == "/healthz":
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if scope["path"] == "/" and scope["method"] == "GET" and "token" in query:
            if not _equal(query["token"][-1], token):
                raise Refused(401, "the token in this address is wrong; `ddim serve` prints the address")
            cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
            return Response(None, 303, {"Location": "/", "Set-Cookie": cookie})
        scheme, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else _read_cookie(headers)
        if not _equal(given, token):
            raise Refused(401, "this page needs its token: open the address that `ddim serve` printed")
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_origin(headers: Headers, host: str) -> None:
    """Check that this page or a program sent a request that changes something, and not another site.

    Raises:
        Refused: if a browser sent the request for another site.
    """
    origins, site = headers.getlist("origin"), headers.get("sec-fetch-site", "none")
    same = {f"http://{host}".lower(), f"https://{host}".lower()}
    if len(origins) > 1 or any(origin.lower() not in same for origin in origins):
        raise Refused(403, "a page of another address sent this request")
    if site not in ("same-origin", "none"):
        raise Refused(403, "a page of another address sent this request")


def _read_cookie(headers: Headers) -> str:
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return cookie.value if cookie else ""


def _equal(given: Any, token: str) -> bool:  # noqa: ANN401 (what a client sent)
    """Return whether a token is right; the duration of the comparison tells nothing about the token."""
    one, other = (hashlib.sha256(str(text).encode("utf-8", "replace")).digest() for text in (given, token))
    return hmac.compare_digest(one, other)
