"""The settings of a server: what it shows and to whom, and how much work it accepts."""

import ipaddress
from contextlib import suppress
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
        waiting: requests that wait for the same thread.
        seconds: time after which a request ends with the images that are ready.
        json_bytes: bytes of a JSON body.
        upload_bytes: bytes of an uploaded image.
        results: number of results and uploads that are kept.
    """

    images: int = 64
    steps: int = 1000
    waiting: int = 32
    seconds: float = 600.0
    json_bytes: int = 64 * 2**10
    upload_bytes: int = 16 * 2**20
    results: int = 128


@dataclass(frozen=True)
class Settings:
    """The settings of a server.

    Attributes:
        folder: the folder whose runs are shown.
        token: the secret that each request must carry.
        data: the folder with the images on which the page may train; without it the page changes nothing.
        host: the address at which the server listens.
        limits: how much work the server accepts.
    """

    folder: Path
    token: str = field(repr=False)
    data: Path | None = None
    host: str = "127.0.0.1"
    limits: Limits = Limits()

    @property
    def may_train(self) -> bool:
        """Whether the page may start, stop and resume trainings, and rename and delete runs."""
        return self.data is not None


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def check_token(token: str) -> None:
    """Check that nobody can guess a token.

    Raises:
        UserError: if the token is too short, has too few different letters, or has characters that a header
            or cookie cannot contain.
    """
    plain = all(letter.isascii() and (letter.isalnum() or letter in "-_") for letter in token)
    if not plain or len(token) < TOKEN_LETTERS or len(set(token)) < TOKEN_VARIETY:
        needed = f"{TOKEN_LETTERS} random letters, digits, - and _ (128 bits)"
        raise UserError(f"the token must be at least {needed}; without --token and DDIM_TOKEN you get one")
