"""Serve the page until Ctrl-C."""

import logging
import os
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddim.cli.output import say
from ddim.errors import UserError, explain_errors
from ddim.web.settings import Settings, check_token

OFF = ("access_log", "server_header", "proxy_headers")
"""The parts of uvicorn that the page does not use; it has a log of its own."""
REQUESTS = 256
"""The largest number of connections; more requests get the status 503."""


@dataclass(frozen=True)
class Page:
    """The page of the runs in a folder, and its address."""

    runs: Path
    address: str

    def __str__(self) -> str:
        """Return a sentence with the address."""
        # Some terminals take a character behind the address into the link.
        return f"Ctrl-C ends the server; the runs in {self.runs} are shown at {self.address}"


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
        host: the address to listen at; 0.0.0.0 lets other machines see the page.
        port: the port; 0 takes a free one.
        token: a secret that each request must carry: at least 22 random letters, digits, - and _ (default:
            the variable DDIM_TOKEN, or a new one, which the address contains).
        data: the page may also start, stop and resume trainings on the images in this folder; they go on
            after the server has ended.
        opening: open the page in a browser.
        ready: called with the page when the server listens (default: write its address on standard error).

    Raises:
        UserError: if a folder does not exist, the address or port cannot be used, the token is weak, or the
            extra `web` is not installed.

    Commands:
        ddim serve runs --data photos --open
        ddim serve --host 0.0.0.0
    """
    settings = check_settings(folder, host, token, data)
    with explain_errors("the page needs another package", 'pip install "ddim[web]"', ImportError):
        import uvicorn

        from ddim.web.application import build_application
        from ddim.web.processes import Processes
    listener = open_socket(host, port)
    # One line for each request; other libraries only warn.
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("ddim.web").setLevel(logging.INFO)
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    start = f"http://{name}:{listener.getsockname()[1]}/?token="
    processes = Processes()
    # The address in a header such as X-Forwarded-For could be forged.
    plain: dict[str, Any] = {"ws": "none", "log_config": None, **dict.fromkeys(OFF, False)}
    application = build_application(settings, processes)
    config = uvicorn.Config(application, **plain, limit_concurrency=REQUESTS, timeout_graceful_shutdown=2)
    page = Page(settings.folder, start + settings.token)
    ready(page) if ready else say(str(page))
    if opening:
        # Other users see the command of the browser, so its address opens the page only once.
        threading.Timer(1.0, webbrowser.open, [start + application.ticket]).start()
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()
        if left := processes.running:
            say(f"still working: {', '.join(str(child.folder) for child in left)}")


def check_settings(folder: str | Path, host: str, token: str | None, data: str | Path | None) -> Settings:
    """Return the settings of a server, with absolute paths.

    Raises:
        UserError: see `serve`.
    """
    folder, data = Path(folder), None if data is None else Path(data)
    if not folder.is_dir() and (folder.exists() or folder != Path("runs")):
        raise UserError(f"{str(folder)!r} is not a folder of runs; `ddim train` creates runs, in runs/")
    if data is not None and not data.is_dir():
        raise UserError(f"--data must be a folder that holds images, or folders of images, got {str(data)!r}")
    if token is None:
        # Other users see the options of a command, but not its variables.
        token = os.environ.get("DDIM_TOKEN") or secrets.token_urlsafe(24)
    check_token(token)
    # A relative name such as --own=evil.py would be read as an option of `ddim train`.
    return Settings(folder.absolute(), token, data and data.absolute(), host)


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address.

    Raises:
        UserError: if there is no such port or it is taken, or the address does not belong to this machine.
    """
    with explain_errors(f"cannot listen at {host}:{port}", "choose another --port", (OSError, OverflowError)):
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # From now on the socket accepts connections, so a browser waits while the server starts.
        return socket.create_server((host, port), family=family, backlog=128)
