"""Parts of a recipe that the user wrote: their names, the hashes of their source code, and a list of them.

A run folder holds the name and the hash of such a part, never its code. To load a run with such parts, the
user must have given them in this process: to `train`, `load` or `resume`, or on the command line.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import is_dataclass
from functools import lru_cache, partial
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from ddim.errors import UserError, describe_given, warn_user
from ddim.nn.networks import UserNetwork

_GIVEN: dict[str, dict[str, Any]] = {}
"""The parts that were given in this process, keyed by name and then by hash; the newest part is last."""

_INSTALLED = ("ddim", "torch", "builtins", "typing", "abc")


def is_own(value: object) -> bool:
    """Return whether a part of a recipe was written by the user, and is not from this package."""
    if isinstance(value, UserNetwork):
        return True
    return is_dataclass(value) and type(value).__module__.split(".")[0] != "ddim"


def identify_part(value: object) -> dict[str, str]:
    """Return the name and the hash of a user's part, as a recipe records them; remember the part.

    Raises:
        UserError: if the part is not a frozen dataclass.
    """
    if isinstance(value, UserNetwork):
        name, digest, part = value.name, _hash_network(value), value
    else:
        part = type(value)
        name, digest = part.__name__, _hash_class(part)
        if not part.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise UserError(f"{name} must be a frozen dataclass: write @dataclass(frozen=True) above it")
    known = _GIVEN.setdefault(name, {})
    known.pop(digest, None)
    known[digest] = part
    return {"kind": name, "sha256": digest}


def give_parts(parts: Iterable[Any]) -> str:
    """Remember parts that the user wrote, so that runs with these parts can be loaded in this process.

    Args:
        parts: frozen dataclasses or instances of them, networks, classes of networks, or functions that
            return a network.

    Returns:
        The name of the last part.

    Raises:
        UserError: if `parts` is not a list, or a part is none of these.
    """
    # A network may be iterable, but its layers are not the parts.
    if isinstance(parts, nn.Module) or not isinstance(parts, Iterable):
        raise UserError(
            f"own must be a list, such as own=[MySchedule, MyNetwork], got {describe_given(parts)}"
        )
    name = ""
    for part in parts:
        if isinstance(part, type) and is_dataclass(part):
            name = part.__name__
            _GIVEN.setdefault(name, {})[_hash_class(part)] = part
        elif is_own(part) or (callable(part) and (not isinstance(part, type) or issubclass(part, nn.Module))):
            name = identify_part(part if is_own(part) else UserNetwork(part))["kind"]
        else:
            raise UserError(
                "a part that you wrote must be a frozen dataclass or a network, or a class or function that "
                f"returns one of these, got {type(part).__name__}"
            )
    return name


def find_part(name: str, digest: str | None, path: str) -> Any:  # noqa: ANN401 (a class or a UserNetwork)
    """Return the part with this name that was given in this process.

    Args:
        name: the name of the part.
        digest: the hash that a run recorded. If no given part has this hash, the newest part with this name
            is returned, with a warning. If `digest` is None, the newest part with this name is returned, or
            None if no such part was given.
        path: the path of the part in a recipe, for messages.

    Raises:
        UserError: if `digest` is a hash, and no part with this name was given.
    """
    known = _GIVEN.get(name, {})
    if digest in known:
        return known[digest]
    if digest is None or known:
        newest = next(reversed(known.values()), None)
        if digest is not None:
            warn_user(f"{path} {name} has other source code than in the run: its results may differ")
        return newest
    raise UserError(
        f"{path} is {name}, which was written by the user of the run and is not stored in it: give it again, "
        f"with own=[{name}] to ddim.load or ddim.resume, or with --own FILE.py on the command line"
    )


def find_changed_parts(recorded: Any, now: Any, path: str = "") -> Iterator[str]:  # noqa: ANN401 (JSON)
    """Yield the path of each part whose hash differs between two recipes.

    Args:
        recorded: the first recipe, as `dump` returns it.
        now: the second recipe, as `dump` returns it.
        path: the path of `recorded` and `now` in a recipe, if they are parts of a recipe.
    """
    if isinstance(recorded, dict) and isinstance(now, dict):
        if recorded.get("sha256") != now.get("sha256"):
            yield path
        for name in recorded.keys() & now.keys():
            yield from find_changed_parts(recorded[name], now[name], f"{path}.{name}".lstrip("."))


def _hash(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n\n".join(texts).encode()).hexdigest()


@lru_cache(maxsize=256)
def _hash_class(kind: type) -> str:
    """Return a SHA-256 of the source of a class and of its bases, except bases in modules of `_INSTALLED`."""
    return _hash(_read_source(base) for base in kind.__mro__ if _is_written_by_user(base))


def _hash_network(net: UserNetwork) -> str:
    """Return a SHA-256 of a network.

    It covers the source of all layers that the user wrote, the source of the function that makes the network,
    if there is one, and the description of all layers (`repr`).
    """
    made = net.given.func if isinstance(net.given, partial) else net.given
    texts = [_hash_class(kind) for kind in net.kinds if _is_written_by_user(kind)]
    if isinstance(made, FunctionType):
        texts.append(_read_source(made))
    return _hash([*texts, net.layers])


def _is_written_by_user(kind: type) -> bool:
    return kind.__module__.split(".")[0] not in _INSTALLED


def _read_source(thing: type | Callable[..., Any]) -> str:
    """Return the source code of a class or function, or its compiled code if there is no source code."""
    codes = list(_list_codes(thing))
    for code in codes:
        # `inspect` does not find the classes of a notebook, whose module has no file. Search by line instead.
        text = "".join(linecache.getlines(code.co_filename))
        if found := _find_definition(text, thing, code):
            return found
    try:
        return textwrap.dedent(inspect.getsource(thing))
    except (OSError, TypeError):
        return "\n".join(map(_describe_code, codes))


def _list_codes(thing: type | Callable[..., Any]) -> Iterator[CodeType]:
    values = [thing] if isinstance(thing, FunctionType) else vars(thing).values()
    for value in values:
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if isinstance(function, FunctionType):
            yield inspect.unwrap(function).__code__


def _find_definition(text: str, thing: type | Callable[..., Any], code: CodeType) -> str | None:
    """Return the definition in `text` of a class or function with this compiled code, or None."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return None
    if thing.__name__ == "<lambda>":
        return _find_lambda(tree, code)
    line = code.co_firstlineno
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == thing.__name__:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first <= line <= (node.end_lineno or first):
                return textwrap.dedent("".join(text.splitlines(keepends=True)[first - 1 : node.end_lineno]))
    return None


def _find_lambda(tree: ast.Module, code: CodeType) -> str | None:
    """Return the lambda with this compiled code, without the statement around it; None if it is not found."""
    # Instructions without a place in the text have no columns, or empty ones.
    places = [(line, column) for line, _, column, end in code.co_positions() if end]
    found = None
    # The walk goes from outer to inner expressions, so the last lambda around the code is the right one.
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda) and places and _includes(node.body, places[0]):
            found = ast.unparse(node)
    return found


def _includes(node: ast.expr, place: tuple[int | None, int | None]) -> bool:
    """Return whether the text of an expression includes the place (line, column)."""
    return (node.lineno, node.col_offset) <= place < (node.end_lineno, node.end_col_offset)  # type: ignore[operator]


def _describe_code(code: CodeType) -> str:
    constants = [_describe_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_name} {code.co_names} {constants} {code.co_code.hex()}"
