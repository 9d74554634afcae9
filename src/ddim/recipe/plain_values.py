"""Convert JSON or text to plain values of recipe fields (numbers, texts, tuples); describe their types."""

from __future__ import annotations

import datetime
import math
import types
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np

from ddim.data import parse_size
from ddim.data.clusters import Clusters
from ddim.errors import UserError, suggest


def parse_plain(data: Any, wanted: Any, path: str) -> Any:  # noqa: ANN401, PLR0911, PLR0912
    """Convert JSON, the text of an option, or a number or array of NumPy, to a plain value.

    A plain value is a number, text, truth value, tuple or `Clusters`.

    Args:
        data: the JSON, text, number or array.
        wanted: the type of the value.
        path: the path of the value in a recipe, for messages.

    Raises:
        UserError: if `data` is not such a value.
    """
    origin, args = get_origin(wanted), get_args(wanted)
    data = data.tolist() if isinstance(data, np.ndarray) else to_plain(data)
    refusal = UserError(f"{path} must be {describe_type(wanted)}, got {show_value(data)}")
    if origin in (Union, types.UnionType):
        if data in (None, "none") and types.NoneType in args:
            return None
        if Clusters in args and (isinstance(data, Clusters) or str(data).startswith("clusters")):
            return data if isinstance(data, Clusters) else Clusters.parse(data)
        for option in args:
            if option not in (types.NoneType, Clusters):
                with suppress(UserError):
                    return parse_plain(data, option, path)
        raise refusal
    if origin is Literal:
        if data not in args:
            raise UserError(f"{refusal}{suggest(str(data), args)}")
        return data
    if origin is tuple:
        if path == "data.size" and isinstance(data, str | int) and "," not in str(data):
            return parse_size(str(data))
        items = data
        if isinstance(data, str):
            inside = data.strip("()[] ")
            # "[]" is an empty list, and an empty text is an error.
            items = [item.strip() for item in inside.split(",")] if inside or not data.strip() else []
        if not isinstance(items, list | tuple) or (args[-1] is not ... and len(items) != len(args)):
            raise refusal
        return tuple(parse_plain(item, args[0], path) for item in items)
    if wanted is bool:
        truth = {True: True, False: False, "true": True, "false": False, "yes": True, "no": False}
        if isinstance(data, str | bool) and data in truth:
            return truth[data]
        raise refusal
    # YAML reads a folder named 2024 or 2024-05-01 as a number or a date, so these are accepted as text.
    plain = str | int | float | datetime.date
    if not isinstance(data, plain) or isinstance(data, bool) or not str(data).strip():
        raise refusal
    return str(data) if wanted is str else _parse_number(data, wanted, refusal)


def to_plain(value: Any) -> Any:  # noqa: ANN401
    """Return a number of NumPy as a number of Python, and any other value unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def _parse_number(data: Any, wanted: type, refusal: UserError) -> int | float:  # noqa: ANN401
    try:
        number = float(data)
    except (TypeError, ValueError, OverflowError):
        raise refusal from None
    if not math.isfinite(number) or (wanted is int and number != int(number)):
        raise refusal
    return int(number) if wanted is int else number


def show_value(value: Any) -> str:  # noqa: ANN401  (JSON)
    """Return the `repr` of a value from a file, cut after 200 characters."""
    try:
        text = repr(value)
    # Python does not write integers of more than 4300 digits, and no deeply nested lists.
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} that is too long to be shown"
    return text if len(text) <= 200 else f"{text[:200]}..."


def describe_type(wanted: Any) -> str:  # noqa: ANN401
    """Return a type of plain values in words, such as "a list of whole numbers"."""
    origin, args = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if arg is types.NoneType else describe_type(arg) for arg in args)
    if origin is Literal:
        return "one of " * (len(args) > 1) + ", ".join(args)
    if origin is tuple:
        length = "" if args[-1] is ... else f"{len(args)} "
        return f"a list of {length}{describe_type(args[0]).removeprefix('a ').replace('number', 'numbers')}"
    names: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    names[Clusters] = "clusters:K"
    # A part that the user wrote may have other types, which no recipe can hold.
    return names.get(wanted) or getattr(wanted, "__name__", str(wanted))


def join_words(words: Iterable[object]) -> str:
    """Return words as in a sentence, such as "a, b and c"."""
    *most, last = map(str, words)
    return f"{', '.join(most)} and {last}" if most else last
