"""Convert recipes to and from YAML and JSON, and set their fields by path.

A path is the name of an option on the command line: `--schedule.clip powers` sets the field `schedule.clip`.
The classes that a field can hold are called its kinds. For safety, YAML and JSON can only create objects of
the classes registered in `kinds.FAMILIES`, of the dataclasses that are fields of a recipe, and of the classes
of parts that the user gave in this process (see `own_parts`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from ddim.data.clusters import Clusters
from ddim.errors import UserError, suggest
from ddim.nn.networks import UserNetwork
from ddim.recipe.flat import SAMPLING_FIELDS
from ddim.recipe.kinds import Slot, kind_name, list_slots
from ddim.recipe.own_parts import identify_part, is_own
from ddim.recipe.plain_values import describe_type, parse_plain, show_value, to_plain
from ddim.recipe.recipe import Recipe


def dump(value: Any, named: bool = False) -> Any:  # noqa: ANN401  (any value of the tree)
    """Return a recipe, or a part of a recipe, as JSON.

    The entry "kind" is the name of the class of a part. An inner part has this entry if its field can hold
    several kinds; `named` adds the entry to `value` itself. A part that the user wrote always has this entry,
    and the entry "sha256", a hash of its source code.

    Raises:
        UserError: if a part is not a frozen dataclass of plain values.

    Example:
        >>> dump(Objective())
        {"on": "noise", "error": "l1", "times": {"kind": "uniform_times", "low": 0.0}, ...}
    """
    if isinstance(value, tuple):
        return [dump(item) for item in value]
    if isinstance(value, Clusters):
        return str(value)
    if not isinstance(value, UserNetwork) and (not is_dataclass(value) or isinstance(value, type)):
        return _check_plain(value)
    inner = {slot.name: dump(getattr(value, slot.name), slot.named) for slot in list_slots(type(value))}
    if is_own(value):
        return {**identify_part(value), **inner}
    return {"kind": kind_name(value), **inner} if named else inner


def _check_plain(value: Any) -> Any:  # noqa: ANN401
    value = to_plain(value)
    if value is not None and not isinstance(value, str | int | float):
        name = value.__name__ if isinstance(value, type) else type(value).__name__
        mend = f": write @dataclass(frozen=True) above {name}" if callable(value) else ""
        mend = f": give an instance, {name}()" if isinstance(value, type) else mend
        raise UserError(
            "a recipe holds numbers, texts, tuples of these and frozen dataclasses of these, got "
            f"{name}{mend}"
        )
    return value


def load_recipe(data: Any) -> Recipe:  # noqa: ANN401 (JSON)
    """Return the recipe that is described by JSON from `dump` or a user; missing fields take their defaults.

    Raises:
        UserError: if a field does not exist or a value is invalid; the message names the valid values.
    """
    return load_value(data, Recipe)


def load_value(data: Any, wanted: Any, path: str = "") -> Any:  # noqa: ANN401
    """Return a recipe, a part of a recipe or a plain value, built from JSON.

    Args:
        data: the JSON.
        wanted: the type of the value: a dataclass, a protocol in `kinds.FAMILIES`, or a plain type.
        path: the path of the value in a recipe, for messages.

    Raises:
        UserError: if a field does not exist or a value is invalid; the message names the valid values.
    """
    return _load(data, Slot(path, wanted, MISSING), path)


def _load(data: Any, slot: Slot, path: str) -> Any:  # noqa: ANN401
    if not slot.kinds:
        return parse_plain(data, slot.wanted, path)
    if data in (None, "none") and slot.optional:
        return None
    if isinstance(data, str):
        data = {"kind": data}
    if not isinstance(data, Mapping):
        raise UserError(f"{path or 'a recipe'} must be a table of fields, got {show_value(data)}")
    given = dict(data)
    name = given.pop("kind", slot.usual)
    kind = slot.find_kind(name, path, given.pop("sha256", None))
    if isinstance(kind, UserNetwork) and not given:
        return kind
    slots = {inner.name: inner for inner in list_slots(kind)}
    for key in given:
        if key not in slots:
            raise UserError(_unknown(f"{path}.{key}".lstrip("."), str(key), kind, path, slot))
    for inner in slots.values():
        if inner.default is MISSING and inner.name not in given:
            raise UserError(f"{path}.{inner.name}".lstrip(".") + f" must be given for {name}")
    return kind(
        **{key: _load(value, slots[key], f"{path}.{key}".lstrip(".")) for key, value in given.items()}
    )


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return a recipe with some of its fields changed.

    If a change names another kind of part, such as another schedule, the new part gets default fields. If the
    recipe already has a part of this kind, the part keeps its fields.

    Args:
        recipe: the recipe.
        changes: new values keyed by field path: {"schedule": "linear", "schedule.clip": "powers"}. Values are
            text, as on the command line, or JSON. The order of the changes does not matter.

    Raises:
        UserError: if a value is invalid or a path is unknown; the message suggests the nearest path.
    """
    tree = dump(recipe)
    for path in sorted(changes, key=lambda p: (p.count("."), p)):
        _set(tree, path.split("."), changes[path])
    return load_recipe(tree)


def override_sampling(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return a recipe with some of its sampling fields changed; see `override`.

    Raises:
        UserError: if a path is not in `SAMPLING_FIELDS` or `override` refuses the changes.
    """
    for path in changes:
        if path.split(".")[0] not in SAMPLING_FIELDS:
            raise UserError(f"{path} cannot be changed for sampling; only {', '.join(SAMPLING_FIELDS)} can")
    return override(recipe, changes)


def read_recipe(path: str | Path) -> Recipe:
    """Return the recipe in a YAML or JSON file.

    Raises:
        UserError: if the file cannot be read or is not a recipe.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path} cannot be read: {error}") from error
    try:
        data = yaml.load(text, _Loader)
    # PyYAML raises any of these for values that do not fit their tags, and for deep nesting.
    except (
        yaml.YAMLError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise UserError(f"recipe {path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    return load_recipe(data)


def write_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML text; `read_recipe` reads such text from a file."""
    return yaml.safe_dump(dump(recipe), sort_keys=False, default_flow_style=None, width=100)


def list_fields(value: Any, path: str = "") -> list[tuple[str, str, Any]]:  # noqa: ANN401
    """Return (path, valid values in words, value) for every field of a recipe, in order.

    `value` may also be a part of a recipe; `path` is then the path of that part.
    """
    rows = []
    for slot in list_slots(type(value)):
        inner, name = getattr(value, slot.name), f"{path}.{slot.name}".lstrip(".")
        if not slot.kinds:
            rows.append((name, describe_type(slot.wanted), inner))
            continue
        if slot.named:
            rows.append((name, " | ".join(slot.options), "none" if inner is None else kind_name(inner)))
        rows += list_fields(inner, name) if is_dataclass(inner) else []
    return rows


def list_paths(kind: type = Recipe, above: str = "") -> list[str]:
    """Return the dotted names of all fields of a recipe, such as "optim.lr".

    Where a part can be of several kinds, such as the schedule, the fields of all kinds are included.

    Args:
        kind: the class whose fields are listed.
        above: the beginning of each name, such as "optim.".
    """
    paths = []
    for slot in list_slots(kind):
        paths.append(f"{above}{slot.name}")
        for inner in slot.kinds.values():
            paths += list_paths(inner, f"{above}{slot.name}.")
    return list(dict.fromkeys(paths))


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that refuses aliases and reads `on` as text.

    PyYAML reads `on` as true, but `on` is a field of the objective.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:bool"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401  (PyYAML's)
        """Refuse aliases: a few lines with nested aliases can expand to gigabytes."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("YAML aliases, such as *name, are not allowed in a recipe")
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: Any) -> int:  # noqa: ANN401  (PyYAML's)
        """Refuse integers of hundreds of digits, which Python does not convert to floats or text."""
        number = super().construct_yaml_int(node)
        if number.bit_length() > 1024:
            raise yaml.YAMLError("a number with too many digits")
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)

_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|false|True|False)$"), list("tTfF")
)


def _set(tree: dict[str, Any], path: Sequence[str], new: Any) -> None:  # noqa: ANN401
    """Set a value in a recipe that `dump` returned; `load_recipe` later checks whether it is valid."""
    slot, whole = Slot("", Recipe, MISSING), ".".join(path)
    for depth, head in enumerate(path):
        above = ".".join(path[:depth])
        if not slot.kinds:
            raise UserError(f"{whole} does not exist: {path[depth - 1]} is a plain value")
        kind = slot.find_kind(tree.get("kind", slot.usual), above)
        slots = {inner.name: inner for inner in list_slots(kind)}
        if head not in slots:
            raise UserError(_unknown(whole, head, kind, above, slot))
        slot = slots[head]
        if depth < len(path) - 1:
            below = (tree.get(head) or {}) if slot.kinds else {}
            if below == "none" and slot.optional:
                raise UserError(f"{whole} does not exist: {'.'.join(path[: depth + 1])} is none")
            tree[head] = dict(below) if isinstance(below, Mapping) else {"kind": below}
            tree = tree[head]
    if isinstance(new, str) and slot.kinds and not (new == "none" and slot.optional):
        below = tree.get(path[-1])
        new = below if isinstance(below, Mapping) and below.get("kind") == new else {"kind": new}
    tree[path[-1]] = new


def _unknown(path: str, name: str, kind: Any, above: str, slot: Slot) -> str:  # noqa: ANN401
    """Return the message about an unknown field, with a suggestion.

    If other classes for this place have the field, the message names them. Otherwise it suggests a similar
    field of this class or of the whole recipe.
    """
    written = kind.name if isinstance(kind, UserNetwork) else kind.__name__
    own = next((other for other, found in slot.kinds.items() if found is kind), written)
    known = [inner.name for inner in list_slots(kind)]
    if others := [o for o, found in slot.kinds.items() if name in [f.name for f in fields(found)]]:
        hint = suggest(path, [f"{above}.{field}" for field in known], 0.9)
        return f"{path} is not a field of {own}{hint}; it is a field of {' and '.join(others)}"
    here = difflib.get_close_matches(name, known, 1, 0.6)
    paths = [row[0] for row in list_fields(Recipe())] if above else list_paths()
    words = (name,) if above else (name, *name.split("_"))
    same_end = [row for word in words for row in paths if row.split(".")[-1] == word]
    anywhere = same_end or difflib.get_close_matches(path, paths, 1, 0.6)
    if anywhere and not (here and above):
        return f"{path} is not a field of a recipe; perhaps you meant {anywhere[0]}"
    if here:
        return f"{path} is not a field of a recipe; perhaps you meant {f'{above}.{here[0]}'.lstrip('.')}"
    return f"{path} is not a field of a recipe; valid here: {', '.join(known) or 'none'}"
