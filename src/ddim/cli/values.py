"""Read the value of an option from its text, by the type of its parameter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ddim.cli.signatures import Type
from ddim.errors import UserError

NAMES = {
    "bool": "yes or no",
    "int": "a whole number",
    "float": "a number",
    "Literal": "one of",
    "tuple": "two numbers such as 1,2",
    "Sequence": "a list such as 1,2",
}
"""The types that are tried in this order, with their names in messages. Any other type takes the text."""

WORDS = {"true": True, "yes": True, "false": False, "no": False}


def read_text(option: str, types: Sequence[Type], text: str) -> Any:  # noqa: ANN401
    """Return the value of an option.

    Raises:
        UserError: if the text is of none of the types.
    """
    try:
        return read_value(types, text)
    except ValueError:
        wanted = " or ".join(dict.fromkeys(NAMES[kind.name] for kind in types))
        raise UserError(f"{option} must be {wanted}, got {text!r}") from None


def read_value(types: Sequence[Type], text: str) -> Any:  # noqa: ANN401
    """Return a text as a value of one of these types.

    Raises:
        ValueError: if it is none of them.
    """
    names = {kind.name for kind in types}
    for name in NAMES:
        # A text that looks like a number, such as the name of a class, stays a text.
        if name in ("int", "float") and "str" in names:
            continue
        for kind in types:
            if kind.name == name:
                with suppress(ValueError, KeyError):
                    return _read_as(kind, text, alone=len(types) == 1)
    if names <= {*NAMES}:
        raise ValueError(text)
    return text


def _read_as(kind: Type, text: str, *, alone: bool) -> Any:  # noqa: ANN401
    """Return a text as a value of a type in `NAMES`; `alone` if the option takes no other type."""
    if kind.name == "bool":
        return WORDS[text]
    if kind.name == "Literal":
        return {str(value): value for value in kind.inner}[text]
    if kind.name == "tuple":
        pairs = zip(kind.inner, text.split(","), strict=True)
        return tuple(read_value(types, part) if part.strip() else None for types, part in pairs)
    if kind.name == "Sequence":
        return _read_list(kind.inner, text, alone=alone)
    return int(text) if kind.name == "int" else float(text)


def _read_list(types: Sequence[Type], text: str, *, alone: bool) -> list[Any]:
    """Return the values of a list: "1,2", "[1,2],[3,4]", or whole numbers such as "0-35,70"."""
    numbers = {kind.name for kind in types} <= {"int", "float"}
    if not (alone or numbers or "," in text):
        raise ValueError(text)
    parts = re.findall(r"\[([^\]]*)\]", text) if text.startswith("[") else text.split(",")
    values = []
    for part in parts:
        span = re.fullmatch(r"(\d+)-(\d+)", part.strip())
        if span and numbers:
            values += range(int(span[1]), int(span[2]) + 1)
        else:
            values.append(read_value(types, part.strip()))
    return values
