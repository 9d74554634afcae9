"""Read the value of an option from its text, by the type of its parameter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddim.cli.signatures import Type
from ddim.errors import UserError, suggest

ORDER = ("bool", "int", "float", "Literal", "tuple", "Sequence")
"""The types that are tried first; any other one takes the text as it is."""

WORDS = {"true": True, "yes": True, "false": False, "no": False}

MOST = 10**6
"""A longer range of seeds is a typing error, which would fill the memory."""


def read_text(option: str, types: Sequence[Type], text: str) -> Any:  # noqa: ANN401
    """Return the value of an option.

    Raises:
        UserError: if the text is of none of the types.
    """
    try:
        return read_value(types, text)
    except ValueError:
        known = [str(value) for kind in types if kind.name == "Literal" for value in kind.inner]
        wanted = " or ".join(dict.fromkeys(map(name_type, types)))
        raise UserError(f"{option} must be {wanted}, got {text!r}{suggest(text, known)}") from None


def read_value(types: Sequence[Type], text: str) -> Any:  # noqa: ANN401
    """Return a text as a value of one of these types.

    Raises:
        ValueError: if it is none of them.
    """
    names = [kind.name for kind in types]
    # A text that looks like a number, such as the name of a class, stays a text.
    skipped = ("int", "float") if "str" in names else ()
    tried = [kind for kind in types if kind.name in ORDER and kind.name not in skipped]
    for kind in sorted(tried, key=lambda kind: ORDER.index(kind.name)):
        try:
            if kind.name != "Sequence" or len(types) == 1 or _is_list(kind, names, text):
                return _read_as(kind, text)
        except ValueError:
            continue
    if set(names) <= {*ORDER}:
        raise ValueError(text)
    return Path(text) if names == ["Path"] else text


def _is_list(kind: Type, names: Sequence[str], text: str) -> bool:
    """Return whether a text is a list rather than a single value, where both are possible."""
    numbers = {inner.name for inner in kind.inner} <= {"int", "float"} and not {"int", "float"} & {*names}
    return numbers or re.search(r",|^\d+-\d+$", text) is not None


def _read_as(kind: Type, text: str) -> Any:  # noqa: ANN401
    """Return a text as a value of a type in `ORDER`."""
    if kind.name in ("bool", "Literal"):
        known = WORDS if kind.name == "bool" else {str(value): value for value in kind.inner}
        if text not in known:
            raise ValueError(text)
        return known[text]
    if kind.name == "tuple":
        pairs = zip(kind.inner, text.split(","), strict=True)
        return tuple(read_value(inner, part) if part.strip() else None for inner, part in pairs)
    if kind.name == "Sequence":
        # "[1,2],[3,4]" is a list of two lists.
        nested = re.findall(r"\[([^\]]*)\]", text) if text.startswith("[") else text.split(",")
        parts = [part.strip() for part in nested]
        if kind.inner == (Type("int"),):
            return [number for part in parts for number in _read_range(part)]
        return [read_value(kind.inner, part) for part in parts]
    return int(text) if kind.name == "int" else float(text)


def _read_range(text: str) -> range:
    """Return the whole numbers of "5" or "0-35"."""
    bounds = re.fullmatch(r"(\d+)-(\d+)", text)
    low, high = (int(bounds[1]), int(bounds[2])) if bounds else (int(text), int(text))
    if not 0 <= high - low < MOST:
        raise ValueError(text)
    return range(low, high + 1)


def name_type(kind: Type) -> str:
    """Return what a value must be, in words."""
    if kind.name == "Literal":
        return f"one of {', '.join(map(str, kind.inner))}"
    if kind.name == "Sequence" and kind.inner[0].name == "Literal":
        return name_type(kind.inner[0])
    numbers = {
        "bool": "yes or no",
        "int": "a whole number",
        "float": "a number",
        "tuple": "two numbers such as 1,2",
    }
    return "a list such as 1,2" if kind.name == "Sequence" else numbers.get(kind.name, "a word")
