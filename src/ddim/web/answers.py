"""The answers of the server as JSON, and the error that carries a status."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from fastapi import HTTPException, Response

RETRY_SECONDS = 2
"""Seconds after which a client may repeat a request that was refused because the server was busy."""


class Refused(HTTPException):  # noqa: N818 (an answer, not a fault of the server)
    """Raised if a request cannot be answered; holds the HTTP status and one sentence for the user."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(status, sentence)
        self.sentence = sentence


@dataclass(frozen=True)
class Problem:
    """The body of every error answer."""

    error: str


def reply(content: object, status: int = 200) -> Response:
    """Return an answer with a dataclass, mapping, list or plain value as JSON.

    Numbers that are not finite become null. Text may contain any character, even the unpaired surrogates that
    Python puts into undecodable file names.
    """
    text = json.dumps(as_plain(content), allow_nan=False, separators=(",", ":"))
    headers = {"Retry-After": str(RETRY_SECONDS)} if status in (429, 503) else None
    return Response(text.encode(), status, headers, "application/json")


def as_plain(value: Any) -> Any:  # noqa: ANN401 (any answer)
    """Return a copy that JSON can express: dataclasses become mappings, and numbers that are not finite
    become None.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): as_plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value


def refuse(refused: Refused) -> Response:
    """Return the error answer to a request, with the status and the sentence of `refused`."""
    return reply(Problem(refused.sentence), refused.status_code)
