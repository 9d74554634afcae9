"""Convert recipes to and from plain values (YAML, JSON), and set their fields by path.

A path is the name of an option on the command line: `--schedule.clip powers` sets the field `schedule.clip`.
The classes that a field can hold are called its kinds. For safety, YAML and JSON can only create objects of
the classes in `FAMILIES`, of the dataclasses that are fields of a recipe, and of the classes of parts that
the user gave in this process (see `user_parts`).
"""

import math
import types
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import yaml

from ddim.data import parse_size
from ddim.data.clusters import Clusters
from ddim.errors import UserError, suggest
from ddim.nn.networks import UserNetwork
from ddim.recipe.options import SAMPLING_FIELDS, option_text, split_list, strip_brackets
from ddim.recipe.recipe import FAMILIES, Recipe
from ddim.recipe.user_parts import find_part, identify_part, is_user_part


@dataclass(frozen=True)
class Slot:
    """A field of a recipe or of one of its parts.

    Attributes:
        name: the name of the field.
        wanted: its type.
        default: its default or, for a slot of an object, its value.
        owner: the class that has the field.
    """

    name: str
    wanted: Any
    default: Any
    owner: type = Recipe

    @cached_property
    def kinds(self) -> dict[str, type]:
        """The classes that the field can hold, keyed by name, the usual one first; empty for plain values."""
        kinds: dict[str, type] = {}
        for option in _list_options(self.wanted):
            if option in FAMILIES:
                kinds |= FAMILIES[option]
            elif isinstance(option, type) and is_dataclass(option) and option is not Clusters:
                kinds[option.__name__.lower()] = option
        return {name: kind for name, kind in kinds.items() if kind is type(self.default)} | kinds

    @property
    def names(self) -> list[str]:
        """The names of the kinds, the usual kind first; "none" is last, if the field may be None."""
        return [*self.kinds, *["none"] * (types.NoneType in _list_options(self.wanted))]

    @property
    def possible(self) -> str:
        """The valid values in words."""
        return " | ".join(self.names) if self.kinds else describe_type(self.wanted)

    @property
    def value(self) -> Any:  # noqa: ANN401
        """The default; for a part, the name of its kind."""
        return kind_name(self.default) if self.kinds and self.default is not MISSING else self.default


def list_slots(part: Any) -> list[Slot]:  # noqa: ANN401
    """Return the fields of a class of parts, or of a part, whose values are then the defaults."""
    if not is_dataclass(part):  # a network that the user wrote
        return []
    kind = part if isinstance(part, type) else type(part)
    hints = get_type_hints(kind)
    return [Slot(f.name, hints[f.name], getattr(part, f.name, f.default), kind) for f in fields(kind)]


def walk_slots(value: Any, path: str = "") -> list[tuple[str, Slot]]:  # noqa: ANN401
    """Return the path and the slot of each field of a recipe, or of a part with this path, in order.

    A part that can only be of one kind, such as `optim`, has no entry; its fields have.
    """
    slots = []
    for slot in list_slots(value):
        name = f"{path}.{slot.name}".lstrip(".")
        slots += [(name, slot)] if len(slot.kinds) != 1 else []
        slots += walk_slots(slot.default, name) if slot.kinds else []
    return slots


def kind_name(value: object) -> str:
    """Return the name under which the class of an object is registered, such as "cosine" for `Cosine()`.

    For a part that the user wrote, this is the name of its class or function; for None it is "none". For any
    other class that is not registered, such as `Optim`, it is the name of the class in lower case.
    """
    if value is None:
        return "none"
    names = [name for family in FAMILIES.values() for name, kind in family.items() if kind is type(value)]
    name = value.name if isinstance(value, UserNetwork) else type(value).__name__
    return names[0] if names else name if is_user_part(value) else name.lower()


def describe_kind(value: object) -> str:
    """Return the name of a part of a recipe and its fields that are not defaults, such as "ddim eta 0.5".

    Equal numbers have equal names, such as 1 and 1.0.
    """
    words = [kind_name(value)]
    for field in fields(value) if is_dataclass(value) else ():
        now = getattr(value, field.name)
        if now != field.default:
            words.append(f"{field.name} {f'{now:g}' if isinstance(now, float) else option_text(now)}")
    return " ".join(words)


def list_paths(kind: Any = Recipe, above: str = "") -> list[str]:  # noqa: ANN401 (a class)
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


# To plain values


def dump(value: Any, named: bool = False) -> Any:  # noqa: ANN401  (any value of the tree)
    """Return a recipe, or a part of a recipe, as JSON.

    The entry "kind" is the name of the class of a part. An inner part has this entry if its field can hold
    several kinds; `named` adds the entry to `value` itself. A part that the user wrote always has this entry,
    and the entry "sha256", a hash of its source code. Numbers that parts of a recipe take from the schedule
    or the pixels are null.

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
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, type) or not (is_user_part(value) or is_dataclass(value)):
        raise UserError(f"a recipe holds plain values, tuples and frozen dataclasses, got {value!r:.100}")
    tree = {slot.name: dump(slot.default, len(slot.kinds) > 1) for slot in list_slots(value)}
    if isinstance(value, Recipe):
        for name, numbers in value.shared_numbers.items():
            tree[name] = _leave_out(tree[name], numbers)
    if is_user_part(value):
        return {**identify_part(value), **tree}
    return {"kind": kind_name(value), **tree} if named else tree


def _leave_out(tree: Any, numbers: Mapping[str, float]) -> Any:  # noqa: ANN401 (JSON)
    """Return a part of a recipe as JSON, with null for the fields that have these numbers."""
    if not isinstance(tree, Mapping):
        return tree
    inner = {name: _leave_out(value, numbers) for name, value in tree.items()}
    return {name: None if numbers.get(name) == value else value for name, value in inner.items()}


def write_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML text; `read_recipe` reads such text from a file."""
    return yaml.safe_dump(dump(recipe), sort_keys=False, default_flow_style=None, width=100)


# From plain values


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
        wanted: the type of the value: a dataclass, a protocol in `FAMILIES`, or a plain type.
        path: the path of the value in a recipe, for messages.

    Raises:
        UserError: if a field does not exist or a value is invalid; the message names the valid values.
    """
    return _load(data, Slot(path, wanted, MISSING), path)


def _load(data: Any, slot: Slot, path: str) -> Any:  # noqa: ANN401
    if not slot.kinds:
        return parse_plain(data, slot.wanted, path)
    if "none" in slot.names and data in (None, "none", "null", {"kind": "none"}):
        return None
    data = {"kind": data} if isinstance(data, str) else data
    if not isinstance(data, Mapping):
        raise UserError(f"{path or 'a recipe'} must be a table of fields, got {data!r:.200}")
    kind = _find_kind(data, slot, path)
    # Without a kind, the fields change the usual part; with a kind, they change a part with default fields.
    usual = slot.default if "kind" not in data and type(slot.default) is kind else kind
    slots, values = {inner.name: inner for inner in list_slots(usual)}, {}
    for name, value in data.items():
        whole = f"{path}.{name}".lstrip(".")
        if name in slots:
            values[name] = _load(value, slots[name], whole)
        elif name not in ("kind", "sha256"):
            raise UserError(_explain_unknown(whole, slot, str(data.get("kind")), slots))
    if isinstance(kind, UserNetwork):
        return kind
    for name, inner in slots.items():
        if inner.default is MISSING and name not in values:
            raise UserError(f"{path}.{name} must be given".lstrip("."))
    return kind(**values) if usual is kind else replace(usual, **values)


def _find_kind(data: Mapping[str, Any], slot: Slot, path: str) -> Any:  # noqa: ANN401 (a class or UserNetwork)
    """Return the class that JSON of a field names, or the part with this name that the user wrote."""
    name = str(data.get("kind", next(iter(slot.kinds))))
    if name in slot.kinds and "sha256" not in data:
        return slot.kinds[name]
    part = find_part(name, path, data)
    if part and (slot.name == "net" or not isinstance(part, UserNetwork)):
        return part
    hint = suggest(name, slot.names)
    raise UserError(f"{path or 'kind'} must be one of {', '.join(slot.names)}, got {name!r:.100}{hint}")


def _explain_unknown(path: str, slot: Slot, kind: str, fields: Collection[str]) -> str:
    """Return the message about an unknown field of a part, with the most similar field.

    Args:
        path: the path of the unknown field.
        slot: the field of the recipe that holds the part.
        kind: the name of the kind of the part.
        fields: the fields of the part.
    """
    known, (above, _, name) = list_paths(), path.rpartition(".")
    if path in known:
        others = [other for other, each in slot.kinds.items() if name in each.__dataclass_fields__]
        hint = suggest(path, [f"{above}.{field}" for field in fields])
        return f"{path} is a field of {above} {' or '.join(others)}, and {above} is {kind} here{hint}"
    same_end = [other for other in known if other.endswith(f".{name}")]
    hint = f"; perhaps you meant {same_end[0]}" if same_end else suggest(path, known)
    return f"{path} is not a field of a recipe{hint}"


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return a recipe with some of its fields changed.

    If a change names another kind of part, such as another schedule, the new part gets default fields. If the
    recipe already has a part of this kind, the part keeps its fields.

    Args:
        recipe: the recipe.
        changes: new values keyed by field path: {"schedule": "linear", "schedule.clip": "powers"}. Values are
            text, as on the command line, JSON, or parts. The order of the changes does not matter.

    Raises:
        UserError: if a value is invalid or a path is unknown; the message suggests the nearest path.
    """
    tree = dump(recipe)
    for path in sorted(changes, key=lambda path: path.count(".")):
        *parents, last = path.split(".")
        part = tree
        for name in parents:
            inner = part.get(name)
            part[name] = dict(inner) if isinstance(inner, Mapping) else {"kind": inner or "none"}
            part = part[name]
        new, old = changes[path], part.get(last)
        new = UserNetwork(new) if path == "net" and callable(new) else new
        if is_user_part(new) or (is_dataclass(new) and not isinstance(new, type)):
            new = dump(new, named=True)
        if isinstance(old, Mapping) and isinstance(new, str):
            new = old if old.get("kind") == new else {"kind": new}
        part[last] = new
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
        UserError: if the file is missing, cannot be read or is not a recipe.
    """
    try:
        # This loader reads all values as text and ignores tags. `load_recipe` converts text, as it does for
        # options. So YAML's own rules, which read the field `on` as true, do not apply.
        data = yaml.load(Path(path).read_bytes().decode(), yaml.BaseLoader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"recipe {path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    return load_recipe(data)


# Plain values: numbers, texts, truth values, tuples of these, and `Clusters`


_TRUTH = {"true": True, "yes": True, "false": False, "no": False}


def parse_plain(data: Any, wanted: Any, path: str) -> Any:  # noqa: ANN401
    """Convert JSON, the text of an option, or a number or array of NumPy, to a plain value.

    Args:
        data: the JSON, text, number or array.
        wanted: the type of the value.
        path: the path of the value in a recipe, for messages.

    Raises:
        UserError: if `data` is not such a value.
    """
    data = data.tolist() if isinstance(data, np.generic | np.ndarray) else data
    if path == "data.size" and isinstance(data, str | int) and "," not in str(data):
        return parse_size(str(data))
    # "none" means None wherever None is allowed, and no text.
    for option in sorted(_list_options(wanted), key=lambda option: option is not types.NoneType):
        with suppress(ValueError, TypeError, OverflowError, LookupError, AttributeError):
            return _parse(data, option)
    hint = suggest(str(data), map(str, get_args(wanted))) if get_origin(wanted) is Literal else ""
    raise UserError(f"{path} must be {describe_type(wanted)}, got {data!r:.200}{hint}")


def _parse(data: Any, wanted: Any) -> Any:  # noqa: ANN401, PLR0911
    """Return a plain value of a type that is no union.

    Raises:
        ValueError, TypeError, OverflowError, LookupError, AttributeError: if `data` is not such a value.
    """
    args = get_args(wanted)
    if get_origin(wanted) is Literal:
        # A whole number may come as text, or from other programs as 2.0.
        return args[args.index(data) if data in args else [*map(str, args)].index(data)]
    if get_origin(wanted) is dict:
        # JSON has no NaN; null stands for it.
        return {str(name): math.nan if value is None else args[1](value) for name, value in data.items()}
    if get_origin(wanted) is tuple:
        if isinstance(data, str):
            inside = strip_brackets(data)
            data = [item or None for item in split_list(inside)] if inside else []
        if isinstance(data, list | tuple) and (args[-1] is ... or len(data) == len(args)):
            return tuple(parse_plain(item, args[0], "item") for item in data)
    if wanted is types.NoneType and data in (None, "none", "null"):
        return None
    if wanted is Clusters:
        return data if isinstance(data, Clusters) else Clusters.parse(data)
    if wanted is bool:
        return _TRUTH[str(data).lower()]
    if isinstance(data, bool) or not isinstance(data, str | int | float) or not str(data).strip():
        raise TypeError(data)
    if wanted is str:
        return str(data)
    number = float(data)
    if not math.isfinite(number) or wanted(number) != number:
        raise ValueError(data)
    # A float rounds whole numbers above 2^53.
    with suppress(ValueError):
        return wanted(data)
    return wanted(number)


def _list_options(wanted: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """Return the types of a union, or the only type."""
    return get_args(wanted) if get_origin(wanted) in (Union, types.UnionType) else (wanted,)


def describe_type(wanted: Any) -> str:  # noqa: ANN401
    """Return a type of plain values in words, such as "a list of whole numbers"."""
    origin, args = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if arg is types.NoneType else describe_type(arg) for arg in args)
    if origin is Literal:
        return "one of " * (len(args) > 1) + ", ".join(map(str, args))
    if origin is tuple:
        length, item = "" if args[-1] is ... else f"{len(args)} ", describe_type(args[0])
        item = f"({item})" if " or " in item else item.removeprefix("a ").replace("number", "numbers")
        return f"a list of {length}{item}"
    names: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return "clusters:K" if wanted is Clusters else names.get(wanted) or str(wanted)
