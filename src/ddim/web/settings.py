"""The settings of a server: what it shows and to whom, and how much work it accepts."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from ddim.errors import UserError

TOKEN_LETTERS = 22
"""The least length of a token. 22 random letters from an alphabet of 64 letters have 132 bits."""
TOKEN_VARIETY = 8
"""The least number of different letters in a token; 22 random letters practically always have more."""


@dataclass(frozen=True)
class Limits:
    """Upper limits on the work that a server accepts.

    Attributes:
        images: number of images of one request.
        steps: sampling steps of one request.
        work: product of images, steps, network evaluations per step and pixels per image, of one request.
        waiting: requests that wait for the worker.
        per_client: requests of one client that wait for the worker or use the worker.
        job_seconds: seconds that the worker may take for one request; after them the worker is restarted.
        json_bytes: bytes of a JSON body.
        upload_bytes: bytes of an uploaded image.
        requests: requests that are answered at the same time, event streams included.
        client_requests: requests of one client that are answered at the same time.
        results: number of results that are kept.
        uploads: number of uploaded images that are kept.
    """

    images: int = 64
    steps: int = 1000
    work: int = 2**26
    waiting: int = 32
    per_client: int = 4
    job_seconds: float = 120.0
    json_bytes: int = 64 * 2**10
    upload_bytes: int = 16 * 2**20
    requests: int = 256
    client_requests: int = 64
    results: int = 256
    uploads: int = 32


@dataclass(frozen=True)
class Settings:
    """The settings of a server.

    Attributes:
        folder: the folder whose runs are shown.
        data: the folder with the images on which the page may train; without it the page starts no training.
        host: the address at which the server listens.
        token: the secret that each request must carry, or None.
        limits: how much work the server accepts.
        warm: whether the worker process starts together with the server; otherwise the first request that
            needs it starts it.
    """

    folder: Path
    data: Path | None = None
    host: str = "127.0.0.1"
    token: str | None = field(default=None, repr=False)
    limits: Limits = Limits()
    warm: bool = False

    @property
    def may_train(self) -> bool:
        """Whether the page may start, stop and resume trainings."""
        return self.data is not None


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_token(token: str | None, host: str) -> None:
    """Check that a server that other machines can reach has a token that nobody can guess.

    Raises:
        UserError: if the token is missing, is too short, has too few different letters, or has characters
            that a header or cookie cannot contain.
    """
    fresh = f"for example this new one: --token {secrets.token_urlsafe(24)}"
    if token is None:
        if not is_loopback(host):
            raise UserError(f"--host {host} lets other machines see the page, so it needs --token, {fresh}")
        return
    if not all(letter.isascii() and (letter.isalnum() or letter in "-_") for letter in token):
        raise UserError(f"--token must consist of letters, digits, - and _; {fresh}")
    if len(token) < TOKEN_LETTERS or len(set(token)) < TOKEN_VARIETY:
        raise UserError(
            f"--token must be random and have at least {TOKEN_LETTERS} letters (128 bits); {fresh}"
        )
