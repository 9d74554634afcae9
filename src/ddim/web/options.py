"""The options of a request are those of a public function: its signature checks and describes them."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from ddim.cli.commands import COMMANDS
from ddim.cli.signatures import Type, read_signature

HIDDEN = {"n", "seed", "searched", "find_lr", "track", "resume", "more"}
"""The parameters that a request cannot set, besides those that are files."""

FILES = ("data.source", "data.vectors", "objective.guide", "objective.teacher")
"""The fields of a recipe that name files."""


def check_text(text: str) -> str:
    """Return a text that is no component in a Python file, because the page runs no code from files.

    Raises:
        ValueError: if it is one, or has unprintable characters.
    """
    if ".py" in text or not text.isprintable():
        raise ValueError("it must be one line, and name nothing in a Python file")
    return text


def check_field(path: str) -> str:
    """Return the path of a field of a recipe.

    Raises:
        ValueError: if it is no path, or the field names a file.
    """
    if not re.fullmatch(r"[a-z_0-9]+(\.[a-z_0-9]+)*", path) or path in FILES:
        raise ValueError(f"the page cannot set the field {path[:80]}")
    return path


Text = Annotated[str, Field(max_length=200), AfterValidator(check_text)]
Count = Annotated[int, Field(ge=-(2**53), le=2**53)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Fields = Annotated[dict[Annotated[str, AfterValidator(check_field)], Text], Field(max_length=64)]

JSON_TYPES: dict[str, Any] = {"int": Count, "float": Number, "bool": bool, "str": Text}


def make_model(name: str, *commands: str, **more: Any) -> type[BaseModel]:  # noqa: ANN401 (types)
    """Return a model of the bodies of requests: the options of commands, which may all be left out.

    Args:
        name: the name of the model.
        commands: the names of the commands.
        more: the types of further fields of the body, keyed by name.
    """
    found = [p for command in commands for p in read_signature(COMMANDS[command]).parameters]
    options: dict[str, Any] = {
        p.name: (kind | None, Field(None, description=p.help))
        for p in found
        if p.place == "option" and p.owner == "" and p.name not in HIDDEN and (kind := annotate(p.types))
    }
    options |= {field: (kind | None, None) for field, kind in {"fields": Fields, **more}.items()}
    return create_model(name, __config__=ConfigDict(extra="forbid", strict=True), **options)


def annotate(kinds: Sequence[Type]) -> Any:  # noqa: ANN401 (a type)
    """Return the type of the JSON values that a parameter may have; None for files and values of Python."""
    named = [kind for kind in kinds if kind.name != "str" or not any(other.name == "Path" for other in kinds)]
    types = [each for each in map(_annotate, named) if each]
    return reduce(or_, types) if types else None


def _annotate(kind: Type) -> Any:  # noqa: ANN401 (a type)
    if kind.name == "tuple":
        item = reduce(or_, map(annotate, kind.inner)) | None
        return Annotated[list[item], Field(min_length=len(kind.inner), max_length=len(kind.inner))]
    if kind.name == "Sequence":
        item = annotate(kind.inner)
        return item and Annotated[list[item], Field(max_length=1024)]
    return JSON_TYPES.get(kind.name)


def write_options(command: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield the words of a command line that set options; fields of the recipe are options too."""
    known = {p.name: p for p in read_signature(COMMANDS[command]).parameters}
    for name, value in {**options, **options.get("fields", {})}.items():
        option = known[name].option if name in known else f"--{name}"
        if name in known and known[name].is_flag:
            yield from [option] * value
        elif name != "fields":
            # A value such as -2,5 looks like an option, so "=" joins it to its option.
            text = _write_value(name, value)
            yield from [f"{option}={text}"] if text.startswith("-") else [option, text]


def _write_value(name: str, value: Any) -> str:  # noqa: ANN401 (any value of an option)
    if isinstance(value, list | tuple):
        texts = _join_ranges(value) if name == "seeds" else ["" if each is None else each for each in value]
        return ",".join(map(str, texts))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _join_ranges(seeds: Sequence[int]) -> list[str]:
    """Return seeds as texts; consecutive seeds become one range, such as 0-15."""
    starts = [k for k, seed in enumerate(seeds) if k == 0 or seed != seeds[k - 1] + 1]
    ends = [*starts[1:], len(seeds)]
    ranges = [(seeds[start], seeds[end - 1]) for start, end in zip(starts, ends, strict=True)]
    return [str(first) if first == last else f"{first}-{last}" for first, last in ranges]


def write_call(function: str, words: Collection[str], options: Mapping[str, Any]) -> str:
    """Return the Python code that does the same: `ddim.FUNCTION(WORDS, OPTION=VALUE, ...)`."""
    given = [*map(repr, words), *(f"{name}={value!r}" for name, value in options.items())]
    name = "images" if function == "sample" else "result"
    return f"import ddim\n\n{name} = ddim.{function}({', '.join(given)})"
