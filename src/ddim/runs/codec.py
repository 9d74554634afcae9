"""A recipe as data, and back: YAML or JSON, and paths with values.

Paths are as on the command line (`schedule=linear schedule.clip=powers`). Data may build nothing but the
kinds of the registries in `FAMILIES` and the dataclasses that a recipe names.
"""

from __future__ import annotations

import datetime
import difflib
import math
import re
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from ddim.data import parse_size
from ddim.diffusion.conditioning import CONDITIONINGS, Conditioning
from ddim.diffusion.grids import GRIDS, Grid
from ddim.diffusion.loss import LOSSES, Loss
from ddim.diffusion.parameterisation import PARAMETERISATIONS, Parameterisation
from ddim.diffusion.samplers import SAMPLERS, Sampler
from ddim.diffusion.schedules import SCHEDULES, Schedule
from ddim.diffusion.time_sampling import TIME_SAMPLINGS, TimeSampling
from ddim.diffusion.weighting import WEIGHTINGS, Weighting
from ddim.errors import UserError, suggest
from ddim.nn.ema import AVERAGES, Averaging
from ddim.nn.networks import NETWORKS, NetworkSpec
from ddim.runs.recipe import PIXELS, PixelRule, Recipe

FAMILIES: dict[Any, Mapping[str, type]] = {
    Averaging: AVERAGES,
    Conditioning: CONDITIONINGS,
    Grid: GRIDS,
    Loss: LOSSES,
    NetworkSpec: NETWORKS,
    Parameterisation: PARAMETERISATIONS,
    PixelRule: PIXELS,
    Sampler: SAMPLERS,
    Schedule: SCHEDULES,
    TimeSampling: TIME_SAMPLINGS,
    Weighting: WEIGHTINGS,
}
"""The registry of each family of kinds, by its protocol, which annotates the fields that hold one."""


def dump(value: Any, named: bool = False) -> Any:  # noqa: ANN401  (any value of the tree)
    """Return a value as JSON, with its kind where a field may hold several kinds.

    Objective() -> {"on": "noise", "error": "l1", "times": {"kind": "uniform_times", "low": 0.0}, ...}.
    """
    if not is_dataclass(value):
        return [dump(item) for item in value] if isinstance(value, tuple) else value
    inner = {slot.name: dump(getattr(value, slot.name), slot.named) for slot in _list_slots(type(value))}
    return {"kind": kind_name(value), **inner} if named else inner


def kind_name(value: object) -> str:
    """Return the name of a value's kind: that of its family's registry, or of its class."""
    for family in FAMILIES.values():
        for name, kind in family.items():
            if type(value) is kind:
                return name
    return type(value).__name__.lower()


def load_recipe(data: Any) -> Recipe:  # noqa: ANN401 (JSON)
    """Return the recipe that `dump` made, or that is written by hand; missing fields take their defaults.

    Raises:
        UserError: naming the field, and what is possible there.
    """
    return load_value(data, Recipe)


def load_value(data: Any, wanted: Any, path: str = "") -> Any:  # noqa: ANN401
    """Return the value of the type `wanted`, a dataclass or the protocol of a family, from JSON.

    Raises:
        UserError: naming the field, and what is possible there.
    """
    return _load(data, _Slot(path, wanted, MISSING), path)


def _load(data: Any, slot: _Slot, path: str) -> Any:  # noqa: ANN401
    if not slot.kinds:
        return _scalar(data, slot.wanted, path)
    if data in (None, "none") and slot.optional:
        return None
    if isinstance(data, str):
        data = {"kind": data}
    if not isinstance(data, Mapping):
        raise UserError(f"{path or 'a recipe'} must be a table of fields, got {data!r}")
    given = dict(data)
    name = given.pop("kind", slot.usual)
    kind = slot.find_kind(name, path)
    slots = {inner.name: inner for inner in _list_slots(kind)}
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
    """Return the recipe with values set by path: {"schedule": "linear", "schedule.clip": "powers"}.

    Values are text, as on a command line, or JSON. Kinds are set before their fields, whatever the order of
    `changes`. A new kind starts from its defaults; the kind that is there already keeps its fields.

    Raises:
        UserError: for a value that is not possible, or an unknown path; suggests the nearest one.
    """
    tree = dump(recipe)
    for path in sorted(changes, key=lambda p: (p.count("."), p)):
        _set(tree, path.split("."), changes[path])
    return load_recipe(tree)


def read_recipe(path: str | Path) -> Recipe:
    """Return the recipe in a YAML or JSON file.

    Raises:
        UserError: if the file cannot be read or holds no recipe.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path} cannot be read: {error}") from error
    try:
        data = yaml.load(text, _Loader)
    # ValueError: what looks like a date or a number and is none; RecursionError: a thousand brackets.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from error
    return load_recipe(data)


def write_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML text, which `read_recipe` reads."""
    return yaml.safe_dump(dump(recipe), sort_keys=False, default_flow_style=None, width=100)


def list_fields(value: Any, path: str = "") -> list[tuple[str, str, Any]]:  # noqa: ANN401
    """Return every field under a value, in order: its path, what may stand there, and its value."""
    rows = []
    for slot in _list_slots(type(value)):
        inner, name = getattr(value, slot.name), f"{path}.{slot.name}".lstrip(".")
        if not slot.kinds:
            rows.append((name, _readable(slot.wanted), inner))
            continue
        if slot.named:
            rows.append((name, " | ".join(slot.options), "none" if inner is None else kind_name(inner)))
        rows += list_fields(inner, name) if is_dataclass(inner) else []
    return rows


@dataclass(frozen=True)
class _Slot:
    """A field of a kind: what may stand there."""

    name: str
    wanted: Any
    default: Any

    @cached_property
    def kinds(self) -> dict[str, type]:
        """The kinds that the field may hold, by name; none for a plain value."""
        found: dict[str, type] = {}
        for option in self._union:
            if option in FAMILIES:
                found |= FAMILIES[option]
            elif isinstance(option, type) and is_dataclass(option):
                found[option.__name__.lower()] = option
        return found

    @property
    def optional(self) -> bool:
        """Whether the field may be none."""
        return types.NoneType in self._union

    @property
    def named(self) -> bool:
        """Whether data must name the kind."""
        return len(self.kinds) > 1

    @property
    def usual(self) -> str:
        """The kind of data that names none."""
        return kind_name(self.default) if is_dataclass(self.default) else next(iter(self.kinds))

    @property
    def options(self) -> list[str]:
        """The names of the kinds, the usual one first, and none where it is possible."""
        others = [name for name in self.kinds if name != self.usual]
        return [self.usual, *others, *["none"] * self.optional]

    def find_kind(self, name: Any, path: str) -> type:  # noqa: ANN401
        """Return the kind of a name."""
        if not isinstance(name, str) or name not in self.kinds:
            hint = suggest(str(name), self.options)
            raise UserError(f"{path or 'kind'} must be one of {', '.join(self.options)}, got {name!r}{hint}")
        return self.kinds[name]

    @property
    def _union(self) -> tuple[Any, ...]:
        is_union = get_origin(self.wanted) in (Union, types.UnionType)
        return get_args(self.wanted) if is_union else (self.wanted,)


def _list_slots(kind: type) -> list[_Slot]:
    hints = get_type_hints(kind)
    return [_Slot(f.name, hints[f.name], f.default) for f in fields(kind)]


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `on` is a word, as it is a field of the objective, and aliases are refused."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:bool"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401  (PyYAML's)
        """Refuse aliases: a few lines of them can stand for gigabytes."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("a recipe has no aliases")
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|false|True|False)$"), list("tTfF")
)


def _set(tree: dict[str, Any], path: Sequence[str], new: Any) -> None:  # noqa: ANN401
    """Put a value into a tree as `dump` makes it; `load_recipe` finds out whether it is possible."""
    slot, whole = _Slot("", Recipe, MISSING), ".".join(path)
    for depth, head in enumerate(path):
        above = ".".join(path[:depth])
        if not slot.kinds:
            raise UserError(f"{whole} does not exist: {path[depth - 1]} is a plain value")
        kind = slot.find_kind(tree.get("kind", slot.usual), above)
        slots = {inner.name: inner for inner in _list_slots(kind)}
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


def _unknown(path: str, name: str, kind: type, above: str, slot: _Slot) -> str:
    """Return the message about an unknown field.

    It names the other kinds that have the field; else a similar field here; else, anywhere in a recipe, a
    field of this name, of a word of it, or a similar one.
    """
    own = next(other for other, found in slot.kinds.items() if found is kind)
    known = [f.name for f in fields(kind)]
    if others := [o for o, found in slot.kinds.items() if name in [f.name for f in fields(found)]]:
        return f"{path} is not a field of {own}; it is one of {' and '.join(others)}"
    here = difflib.get_close_matches(name, known, 1, 0.6)
    paths = [row[0] for row in list_fields(Recipe())]
    words = (name,) if above else (name, *name.split("_"))
    same_end = [row for word in words for row in paths if row.split(".")[-1] == word]
    anywhere = same_end or difflib.get_close_matches(path, paths, 1, 0.6)
    if anywhere and not (here and above):
        return f"{path} is not a field of a recipe; perhaps you meant {anywhere[0]}"
    if here:
        return f"{path} is not a field of a recipe; perhaps you meant {f'{above}.{here[0]}'.lstrip('.')}"
    return f"{path} is not a field of a recipe; possible here: {', '.join(known) or 'none'}"


def _scalar(data: Any, wanted: Any, path: str) -> Any:  # noqa: ANN401, PLR0911, PLR0912
    """Return a plain value of the wanted type, from JSON or from text."""
    origin, args = get_origin(wanted), get_args(wanted)
    refusal = UserError(f"{path} must be {_readable(wanted)}, got {data!r}")
    if origin in (Union, types.UnionType):
        if data in (None, "none") and types.NoneType in args:
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
