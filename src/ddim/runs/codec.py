"""A recipe as data, and back: YAML or JSON, and paths with values.

Paths are as on the command line (`schedule=linear schedule.clip=powers`). What data may build is the closed
table `recipe.NAMES`.
"""

from __future__ import annotations

import datetime
import difflib
import math
import re
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from ddim.data import parse_size
from ddim.errors import UserError, suggest
from ddim.runs.recipe import NAMES, Recipe


def dump(value: Any, named: bool = False) -> Any:  # noqa: ANN401  (any value of the tree)
    """A value as JSON; its kind is named where the field has a choice of kinds.

    Objective() -> {"on": "noise", "error": "l1", "times": {"kind": "uniform_times", "low": 0.0}, ...}.
    """
    if not is_dataclass(value):
        return [dump(item) for item in value] if isinstance(value, tuple) else value
    hints = get_type_hints(type(value))
    inner = {f.name: dump(getattr(value, f.name), len(_kinds(hints[f.name])) > 1) for f in fields(value)}
    return {"kind": NAMES[type(value)], **inner} if named else inner


def load(data: Any, wanted: Any = Recipe, path: str = "") -> Any:  # noqa: ANN401
    """The value back: only what `NAMES` names, where the field `wanted` allows it.

    Fields that are missing take their defaults. UserError names the field and what is possible.
    """
    options = _kinds(wanted)
    if not options:
        return _scalar(data, wanted, path)
    if data in (None, "none") and _may_be_none(wanted):
        return None
    if isinstance(data, str):
        data = {"kind": data}
    if not isinstance(data, Mapping):
        raise UserError(f"{path or 'a recipe'} must be a table of fields, got {data!r}")
    given = dict(data)
    name = given.pop("kind", NAMES[options[0]])
    kind = _kind(name, wanted, path)
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    for key in given:
        if key not in known:
            raise UserError(_unknown(f"{path}.{key}".lstrip("."), str(key), kind, path, options))
    for f in fields(kind):
        if f.default is MISSING and f.name not in given:
            raise UserError(f"{path}.{f.name}".lstrip(".") + f" must be given for {name}")
    return kind(**{key: load(value, hints[key], f"{path}.{key}".lstrip(".")) for key, value in given.items()})


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with values set by path: {"schedule": "linear", "schedule.clip": "powers"}.

    Values are text, as on a command line, or JSON. A kind alone keeps the fields of the recipe where that is
    its kind already, and else takes that kind's defaults; it comes before its fields whatever the order here.
    What must fit together is looked at once all are set. UserError for an unknown path suggests the near one.
    """
    tree = dump(recipe)
    for path in sorted(changes, key=lambda p: (p.count("."), p)):
        _set(tree, path.split("."), changes[path])
    return load(tree)


def completed(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe as some version wrote it, with the fields that have come since; as it is if unreadable."""
    try:
        return dump(load(recipe))
    except UserError:
        return recipe


def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML or JSON file; UserError where there is none or it is not one."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path} cannot be read: {error}") from error
    try:
        data = yaml.load(text, _Loader)
    # ValueError: what looks like a date or a number and is none; RecursionError: a thousand brackets.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from error
    return load(data)


def write_recipe(recipe: Recipe) -> str:
    """The recipe as YAML text; `read_recipe` gives the same value back."""
    return yaml.safe_dump(dump(recipe), sort_keys=False, default_flow_style=None, width=100)


def flat(value: Any, path: str = "") -> list[tuple[str, Any, Any]]:  # noqa: ANN401
    """Every field under a value: (path, what may stand there, what stands there), in order."""
    rows = []
    hints = get_type_hints(type(value))
    for f in fields(value):
        inner, name = getattr(value, f.name), f"{path}.{f.name}".lstrip(".")
        if options := _kinds(hints[f.name]):
            if len(options) > 1:
                names = [NAMES[kind] for kind in options] + ["none"] * _may_be_none(hints[f.name])
                rows.append((name, " | ".join(names), "none" if inner is None else NAMES[type(inner)]))
            rows += flat(inner, name) if is_dataclass(inner) else []
        else:
            rows.append((name, _readable(hints[f.name]), inner))
    return rows


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `on` is a word, as a field of the objective is, and nothing is repeated by name."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:bool"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401  (PyYAML's)
        """A few lines of aliases can stand for gigabytes."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("a recipe has no aliases")
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|false|True|False)$"), list("tTfF")
)


def _set(tree: dict[str, Any], path: Sequence[str], new: Any) -> None:  # noqa: ANN401
    """Put a value into a tree as `dump` makes it; what it means is for `load` to say."""
    wanted, whole = Recipe, ".".join(path)
    for depth, head in enumerate(path):
        above = ".".join(path[:depth])
        options = _kinds(wanted)
        if not options:
            raise UserError(f"{whole} does not exist: {path[depth - 1]} is a plain value")
        kind = _kind(tree.get("kind", NAMES[options[0]]), wanted, above)
        known = [f.name for f in fields(kind)]
        if head not in known:
            raise UserError(_unknown(whole, head, kind, above, options))
        wanted = get_type_hints(kind)[head]
        if depth < len(path) - 1:
            below = (tree.get(head) or {}) if _kinds(wanted) else {}
            if below == "none" and _may_be_none(wanted):
                raise UserError(f"{whole} does not exist: {'.'.join(path[: depth + 1])} is none")
            tree[head] = dict(below) if isinstance(below, Mapping) else {"kind": below}
            tree = tree[head]
    if isinstance(new, str) and _kinds(wanted) and not (new == "none" and _may_be_none(wanted)):
        below = tree.get(path[-1])
        new = below if isinstance(below, Mapping) and below.get("kind") == new else {"kind": new}
    tree[path[-1]] = new


def _kinds(wanted: Any) -> list[type]:  # noqa: ANN401
    """The kinds that a field's type allows; none for a plain value."""
    options = get_args(wanted) if get_origin(wanted) in (Union, types.UnionType) else (wanted,)
    return [option for option in options if is_dataclass(option) and isinstance(option, type)]


def _may_be_none(wanted: Any) -> bool:  # noqa: ANN401
    return types.NoneType in get_args(wanted)


def _kind(name: Any, wanted: Any, path: str) -> type:  # noqa: ANN401
    kinds = {NAMES[kind]: kind for kind in _kinds(wanted)}
    if not isinstance(name, str) or name not in kinds:
        possible = [*kinds, *["none"] * _may_be_none(wanted)]
        hint = suggest(str(name), possible)
        raise UserError(f"{path or 'kind'} must be one of {', '.join(possible)}, got {name!r}{hint}")
    return kinds[name]


def _unknown(path: str, name: str, kind: type, above: str, options: list[type]) -> str:
    """What to say of an unknown field: which other kinds, of the `options` there are, have it; else the near
    one here; else, anywhere in a recipe, one of this name, of a word of it, or a near one.
    """
    if others := [NAMES[other] for other in options if name in [f.name for f in fields(other)]]:
        return f"{path} is not a field of {NAMES[kind]}; it is one of {' and '.join(others)}"
    known = [f.name for f in fields(kind)]
    here = difflib.get_close_matches(name, known, 1, 0.6)
    paths = [row[0] for row in flat(Recipe())]
    words = (name,) if above else (name, *name.split("_"))
    same_end = [row for word in words for row in paths if row.split(".")[-1] == word]
    anywhere = same_end or difflib.get_close_matches(path, paths, 1, 0.6)
    if anywhere and not (here and above):
        return f"{path} is not a field of a recipe; perhaps you meant {anywhere[0]}"
    if here:
        return f"{path} is not a field of a recipe; perhaps you meant {f'{above}.{here[0]}'.lstrip('.')}"
    return f"{path} is not a field of a recipe; possible here: {', '.join(known) or 'none'}"


def _scalar(data: Any, wanted: Any, path: str) -> Any:  # noqa: ANN401, PLR0911, PLR0912
    """A plain value of the wanted type, from JSON or from text."""
    origin, args = get_origin(wanted), get_args(wanted)
    refusal = UserError(f"{path} must be {_readable(wanted)}, got {data!r}")
    if origin in (Union, types.UnionType):
        if data in (None, "none") and _may_be_none(wanted):
            return None
        for option in args:
            if option is not types.NoneType:
                with suppress(UserError):
                    return _scalar(data, option, path)
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
            # Brackets round nothing are an empty list.
            items = [item.strip() for item in inside.split(",")] if inside or not data.strip() else []
        if not isinstance(items, list | tuple) or (args[-1] is not ... and len(items) != len(args)):
            raise refusal
        return tuple(_scalar(item, args[0], path) for item in items)
    if wanted is bool:
        truth = {True: True, False: False, "true": True, "false": False, "yes": True, "no": False}
        if isinstance(data, str | bool) and data in truth:
            return truth[data]
        raise refusal
    # A folder may be called 2024 or 2024-05-01.
    plain = str | int | float | datetime.date
    if not isinstance(data, plain) or isinstance(data, bool) or not str(data).strip():
        raise refusal
    return str(data) if wanted is str else _number(data, wanted, refusal)


def _number(data: Any, wanted: type, refusal: UserError) -> int | float:  # noqa: ANN401
    try:
        number = float(data)
    except (TypeError, ValueError, OverflowError):
        raise refusal from None
    if not math.isfinite(number) or (wanted is int and number != int(number)):
        raise refusal
    return int(number) if wanted is int else number


def _readable(wanted: Any) -> str:  # noqa: ANN401
    origin, args = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if arg is types.NoneType else _readable(arg) for arg in args)
    if origin is Literal:
        return "one of " * (len(args) > 1) + ", ".join(args)
    if origin is tuple:
        return f"a list of {_readable(args[0]).removeprefix('a ').replace('number', 'numbers')}"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[wanted]
