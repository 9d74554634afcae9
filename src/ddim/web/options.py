"""The options of a request are those of a public function: its signature checks them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ddim.cli.commands import COMMANDS
from ddim.cli.signatures import Parameter, Type, read_signature
from ddim.errors import quote
from ddim.web.answers import Refused

JSON_TYPES = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}
"""The names of types in a JSON schema."""

HIDDEN = ("n", "seed", "out", "zoom", "mask", "data", "device", "threads", "machine", "callbacks")
"""The parameters that a request cannot set: it gives seeds, and files are those of the server."""

FIELD = re.compile(r"[a-z_0-9]+(\.[a-z_0-9]+)*")


def list_options(command: str, hidden: Collection[str] = HIDDEN) -> dict[str, Parameter]:
    """Return the options of a command that a request may set, keyed by name."""
    parameters = read_signature(COMMANDS[command]).parameters
    return {p.name: p for p in parameters if p.place == "option" and p.owner == "" and p.name not in hidden}


def read_options(command: str, given: Mapping[str, Any], hidden: Collection[str] = HIDDEN) -> dict[str, Any]:
    """Return the options of a request as arguments of the function of a command.

    Raises:
        Refused: if the command has no such option, or a value has another type.
    """
    known, options = list_options(command, hidden), {}
    for name, value in given.items():
        if name == "fields":
            options[name] = read_fields(value)
        elif name not in known:
            raise Refused(422, f"{name[:80]} is not an option of {command}")
        elif value is not None:
            if not any(fits(kind, value) for kind in known[name].types):
                raise Refused(422, f"{name} must be {describe_types(known[name])}, got {str(value)[:80]}")
            options[name] = value
    return options


def read_fields(given: object) -> dict[str, str]:
    """Return fields of a recipe, as text keyed by path.

    Raises:
        Refused: if a name is not a path, or a value names a component in a Python file, which would run it.
    """
    if not isinstance(given, dict) or len(given) > 64:
        raise Refused(422, "fields must be an object of at most 64 fields")
    for name, value in given.items():
        if not FIELD.fullmatch(name) or not isinstance(value, str) or len(value) > 200:
            raise Refused(422, f"fields must have a text for each path, got {str(name)[:80]}")
        if re.search(r"\.py\s*:", value):
            raise Refused(422, f"{name} names a component in a Python file; the page runs no code from files")
    return given


def fits(kind: Type, value: Any) -> bool:  # noqa: ANN401 (JSON)
    """Return whether a JSON value is of a type of a parameter."""

    def fits_one(kinds: Sequence[Type], each: Any) -> bool:  # noqa: ANN401
        return any(fits(inner, each) for inner in kinds)

    if kind.name == "Literal":
        return value in kind.inner
    if kind.name == "str":
        text = isinstance(value, str) and len(value) <= 200
        return text and value.isprintable() and ".py" not in value
    if kind.name in ("bool", "int", "float"):
        types = {"bool": (bool,), "int": (int,), "float": (int, float)}[kind.name]
        return type(value) in types and abs(value) < 2**53
    if not isinstance(value, list) or len(value) > 1024:
        return False
    if kind.name == "tuple" and len(kind.inner) == len(value):
        return all(
            each is None or fits_one(kinds, each) for kinds, each in zip(kind.inner, value, strict=True)
        )
    return kind.name == "Sequence" and all(fits_one(kind.inner, each) for each in value)


def describe_types(parameter: Parameter) -> str:
    """Return what a parameter may be, in words."""
    return " or ".join(dict.fromkeys(JSON_TYPES.get(kind.name, "a list") for kind in parameter.types))


def make_schema(command: str, hidden: Collection[str] = HIDDEN) -> dict[str, Any]:
    """Return the JSON schema of the options of a command, with their help; forms are made of it."""
    entries: dict[str, Any] = {"fields": {"type": "object", "additionalProperties": {"type": "string"}}}
    for name, parameter in list_options(command, hidden).items():
        kinds = [{"type": JSON_TYPES.get(kind.name, "array")} for kind in parameter.types]
        entries[name] = {"anyOf": [*kinds, {"type": "null"}], "description": parameter.help}
    return {"type": "object", "properties": entries, "additionalProperties": False}


def write_command(command: str, words: Collection[str], options: Mapping[str, Any]) -> str:
    """Return the line for a shell that does the same: `ddim COMMAND WORDS --OPTION VALUE ...`."""
    known, line = read_signature(COMMANDS[command]).parameters, ["ddim", *command.split(), *words]
    texts = {p.name: p.option for p in known}
    for name, value in {**options, **options.get("fields", {})}.items():
        if name == "fields" or value is False:
            continue
        option, text = texts.get(name, f"--{name}"), _write_value(name, value)
        if value is True:
            line.append(option)
        else:
            # A value such as -2,5 looks like an option, so "=" joins it to its option.
            line += [f"{option}={text}"] if text.startswith("-") else [option, text]
    return quote(*line)


def _write_value(name: str, value: Any) -> str:  # noqa: ANN401 (any value of an option)
    if name == "seeds":
        return ",".join(_join_range(value))
    if isinstance(value, list | tuple):
        return ",".join("" if each is None else str(each) for each in value)
    return str(value)


def _join_range(seeds: list[int]) -> list[str]:
    """Return seeds as texts; consecutive seeds become one range, such as 0-15."""
    ranges: list[list[int]] = []
    for seed in seeds:
        if ranges and seed == ranges[-1][-1] + 1:
            ranges[-1].append(seed)
        else:
            ranges.append([seed])
    return [str(each[0]) if len(each) == 1 else f"{each[0]}-{each[-1]}" for each in ranges]


def write_call(function: str, words: Collection[str], options: Mapping[str, Any]) -> str:
    """Return the Python code that does the same: `ddim.FUNCTION(WORDS, OPTION=VALUE, ...)`."""
    given = [*map(repr, words), *(f"{name}={value!r}" for name, value in options.items())]
    name = "images" if function == "sample" else "result"
    return f"import ddim\n\n{name} = ddim.{function}({', '.join(given)})"


def check_work(
    recipe: Mapping[str, Any],
    images: int,
    steps: int,
    passes: int,
    limits: Any,  # noqa: ANN401
) -> None:
    """Check that a request is not too much work.

    Args:
        recipe: the recipe of the run, as JSON.
        images: number of images.
        steps: sampling steps.
        passes: roughly the number of network evaluations for each image and step.
        limits: the limits of the server.

    Raises:
        Refused: if the request is too much work; the sentence says how many images are not.
    """
    if not 1 <= images <= limits.images:
        raise Refused(422, f"1 to {limits.images} images can be made at a time, got {images}")
    if not 1 <= steps <= limits.steps:
        raise Refused(422, f"1 to {limits.steps:,} steps can be made, got {steps:,}")
    each = steps * passes * math.prod(map(int, recipe["data"]["size"]))
    if images * each > limits.work:
        most = limits.work // each
        hint = f"at most {most} images with these steps" if most else "fewer steps"
        raise Refused(422, f"{images} images in {steps:,} steps are too much work: {hint}")
