"""Parts of a recipe that the user wrote: their names, the hashes of their source code, and a list of them.

A run folder holds the name and the hash of such a part, never its code. To load a run with such parts, the
user must have given them in this process: to `train`, `load` or `resume`, or on the command line.
"""

import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from functools import lru_cache, partial
from types import FunctionType
from typing import Any

from ddim.errors import UserError, warn_user
from ddim.nn.networks import UserNetwork
from ddim.recipe.options import flatten

_NOT_USERS = ("ddim", "torch", "builtins", "typing", "abc")
"""The packages whose classes are not hashed."""

_GIVEN: dict[str, dict[str | None, Any]] = {}
"""The parts that were given in this process, keyed by name and then by hash; the newest part is last."""


def is_user_part(value: object) -> bool:
    """Return whether a part of a recipe was written by the user, and is not from this package."""
    if isinstance(value, UserNetwork):
        return True
    return is_dataclass(value) and type(value).__module__.split(".")[0] != "ddim"


def identify_part(part: Any) -> dict[str, str | None]:  # noqa: ANN401
    """Return the name and the hash of a user's part, as a recipe records them; remember the part.

    The hash is None if no source code is found.

    Args:
        part: a network, or a frozen dataclass or an instance of one.

    Raises:
        UserError: if the part is a dataclass that is not frozen.
    """
    if isinstance(part, UserNetwork):
        maker = part.given.func if isinstance(part.given, partial) else part.given
        makers = [maker] if isinstance(maker, FunctionType) else []
        name, digest = part.name, _hash_source((*part.kinds, *makers), part.layers)
    else:
        part = part if isinstance(part, type) else type(part)
        name, digest = part.__name__, _hash_source((part,))
        if not part.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise UserError(f"{name} must be a frozen dataclass: write @dataclass(frozen=True) above it")
    known = _GIVEN.setdefault(name, {})
    known.pop(digest, None)  # the newest part is last
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
        UserError: if a part is a dataclass that is not frozen.
    """
    name = None
    for part in parts:
        given = is_user_part(part) or (isinstance(part, type) and is_dataclass(part))
        name = identify_part(part if given else UserNetwork(part))["kind"]
    return name or ""


def find_part(name: str, path: str, recorded: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return the part with this name that was given in this process: a class or a `UserNetwork`.

    Args:
        name: the name of the part.
        path: the path of the part in a recipe, for messages.
        recorded: the JSON of the part. If no given part has its "sha256", the newest part with this name is
            returned, with a warning. Without "sha256", the newest part is returned, or None if there is none.

    Raises:
        UserError: if a run recorded the part, and no part with this name was given.
    """
    known = _GIVEN.get(name, {})
    if not known and "sha256" in recorded:
        advice = f"give it again, with own=[{name}] to ddim.load or ddim.resume, or with --own FILE.py"
        raise UserError(f"{path} is {name}, which was written by the user of the run: {advice}")
    digest = recorded.get("sha256")
    if digest and digest not in known:
        warn_user(f"{path} {name} has other source code than in the run: its results may differ")
    return known.get(digest) or next(reversed(known.values()), None)


def find_changed_parts(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the path of each part whose hash differs between two recipes, as `dump` returns them."""
    old, new = flatten(recorded), flatten(now)
    changed = [path for path in old if path.endswith(".sha256") and old[path] != new.get(path)]
    return [path.removesuffix(".sha256") for path in changed]


@lru_cache(maxsize=256)
def _hash_source(things: tuple[object, ...], *more: str) -> str | None:
    """Return a SHA-256 of the sources of functions, of classes and of their bases, and of more texts."""
    text = "\n\n".join([*_list_sources(things), *more])
    return hashlib.sha256(text.encode()).hexdigest() if text else None


def _list_sources(things: Iterable[object]) -> Iterator[str]:
    """Yield the sources of functions, and of the functions of classes; what is typed at a prompt has none."""
    bases = [base for thing in things if isinstance(thing, type) for base in thing.__mro__]
    written = [base for base in bases if base.__module__.split(".")[0] not in _NOT_USERS]
    members = [value for base in written for value in vars(base).values()]
    for member in [*members, *things]:
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if isinstance(function, FunctionType):
            # The functions that @dataclass writes have no source.
            with suppress(OSError, TypeError):
                yield inspect.getsource(function)
