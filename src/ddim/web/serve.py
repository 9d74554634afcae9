"""Serve the page until Ctrl-C."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ddim.errors import UserError
from ddim.web.settings import Settings, check_token


@dataclass(frozen=True)
class Page:
    """The page of the runs in a folder, and its address."""

    runs: Path
    address: str

    def __str__(self) -> str:
        """Return a sentence with the address."""
        return f"the runs in {self.runs} are shown at {self.address}; Ctrl-C ends the server"

    def to_json(self) -> dict[str, str]:
        """Return the address as JSON."""
        return {"address": self.address}


def serve(  # noqa: PLR0913 (the choices of a user)
    folder: str | Path = "runs",
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    data: str | Path | None = None,
    opening: bool = False,
    ready: Callable[[Page], object] | None = None,
) -> None:
    """Show runs on a page in the browser, and sample them there.

    The page shows samples and curves of the runs while they train, generates new images, and edits and
    compares them. It needs the packages of `pip install "ddim[web]"`. Ctrl-C ends it.

    Args:
        folder: the folder of the runs; the default folder may be missing.
        host: the address to listen at; one that other machines can reach needs a token.
        port: the port; 0 takes a free one.
        token: a secret that each request must carry: at least 22 random letters, digits, - and _.
        data: the page may also start, stop and resume trainings on the images in this folder; they go on
            after the server has ended.
        opening: open the page in a browser.
        ready: called with the page when the server listens (default: write its address on standard error).

    Raises:
        UserError: if a folder does not exist, the address or port cannot be used, the token is missing or
            weak, or the extra `web` is not installed.

    Commands:
        ddim serve runs --data photos --open
        ddim serve --host 0.0.0.0 --token "$(openssl rand -hex 16)"
    """
    settings = check_settings(folder, host, port, token, data)
    for package in ("fastapi", "uvicorn"):
        if find_spec(package) is None:
            raise UserError(f'the page needs {package}, which is not installed: pip install "ddim[web]"')
    # These modules need the packages of the extra.
    from ddim.web.application import build_application
    from ddim.web.http_server import make_server
    from ddim.web.trainings import Trainings

    listener = open_socket(host, port)
    _log_to_stderr()
    address = page_address(host, listener.getsockname()[1], token)
    trainings = Trainings(settings)
    server = make_server(build_application(settings, trainings))
    page = Page(settings.folder, address)
    if ready:
        ready(page)
    else:
        _say(str(page))
    if opening:
        _open_browser(address)
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()
        if left := trainings.running:
            names = ", ".join(map(str, left))
            _say(f"still training: {names}; the page of another `ddim serve` can stop them")


def check_settings(
    folder: str | Path, host: str, port: int, token: str | None, data: str | Path | None
) -> Settings:
    """Return the settings of a server, with absolute paths.

    Raises:
        UserError: see `serve`.
    """
    folder, data = Path(folder), None if data is None else Path(data)
    if not folder.is_dir() and (folder.exists() or folder != Path("runs")):
        raise UserError(f"{str(folder)!r} is not a folder of runs; `ddim train` creates runs, in runs/")
    if data is not None and not data.is_dir():
        raise UserError(f"--data must be a folder that holds images, or folders of images, got {str(data)!r}")
    if not 0 <= port <= 65535:
        raise UserError(f"--port must be from 0 to 65535, got {port}")
    check_token(token, host)
    # A relative name such as --own=evil.py would be read as an option of `ddim train`.
    return Settings(folder.absolute(), data and data.absolute(), host, token, warm=True)


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address.

    Raises:
        UserError: if the port is taken, or the address does not belong to this machine.
    """
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    except OSError as error:
        raise UserError(f"--host {host} is not an address of this machine: {error.strerror}") from None
    try:
        # Without this option, POSIX refuses the port for a minute after another server has ended. With it,
        # Windows would accept a port at which another server listens.
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        # From now on the socket accepts connections, so a browser waits while the server starts.
        listener.listen(128)
    except OSError as error:
        listener.close()
        hint = "; choose another --port" if port else ""
        raise UserError(f"cannot listen at {host}, port {port}: {error.strerror}{hint}") from None
    return listener


def page_address(host: str, port: int, token: str | None) -> str:
    """Return the address to open in a browser."""
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/{'' if token is None else f'?token={token}'}"


def _open_browser(address: str) -> None:
    import threading
    import webbrowser

    threading.Timer(1.0, webbrowser.open, [address]).start()


def _log_to_stderr() -> None:
    """Show the log of the server on standard error, one line for each request."""
    log = logging.getLogger("ddim.web")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
