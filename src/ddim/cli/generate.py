"""Run the public function of a command: read its arguments from words, call it, and print its result."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from ddim.cli.output import print_json, print_text
from ddim.cli.own import list_own_files, load_own, name_own_parts, names_own, take_own
from ddim.cli.signatures import Parameter, Signature, Type, find_definition, read_class
from ddim.errors import UserError, quote, suggest

COMMON = {
    "--json": "print the whole result, or the error, as one JSON document",
    "--quiet": "print only errors and the result, or the result's folder",
    "--details": "also print notes, intervals and what cannot be compared",
}
"""The flags of every command."""

HINTS = {
    "--image-size": "--size",
    "--resolution": "--size",
    "--num": "-n",
    "--num-samples": "-n",
    "--epochs": "--minutes or --images",
    "--lr": "--optim.lr",
    "--batch-size": "--optim.batch",
    "--output": "--out",
    "--help-recipe": "`ddim recipe`",
}
"""The option that a user of other programs may mean."""

MOST = 10**6
"""A longer list of seeds is a typing error, which would fill the memory."""


@dataclass
class Arguments:
    """The arguments of a command.

    Attributes:
        values: the arguments of the function, keyed by name.
        load: those of `ddim.load`.
        machine: those of `Machine`.
        save: those of the `save` of the result.
        fields: the fields of a recipe, as text keyed by path.
        files: the files of the user's components, which printed commands name with --own.
        flags: those flags of every command that were given.
    """

    values: dict[str, Any] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    save: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)


def read_arguments(signature: Signature, words: Sequence[str]) -> Arguments:
    """Return the arguments that the words of a command line give.

    Raises:
        UserError: if an option is unknown, or a value is missing or cannot be read.
    """
    arguments, plain = Arguments(), []
    rest, arguments.files = take_own([*words])
    options = {p.option: p for p in signature.parameters if p.place == "option"}
    following = iter(rest)
    for word in following:
        name, equals, value = word.partition("=")
        if short := re.fullmatch(r"(-[a-z])(\d+)", word):
            name, equals, value = short[1], "=", short[2]
        positive = name.replace("--no-", "--", 1)
        if word == "--":
            plain += following
        elif word in COMMON:
            arguments.flags.add(word)
        elif name in options and not options[name].is_flag:
            value = value if equals else next(following, None)
            if value is None or (not equals and value in options):
                raise UserError(f"{name} needs a value")
            _give(arguments, options[name], _read_option(options[name], value, arguments))
        elif positive in options and options[positive].is_flag and not equals:
            _give(arguments, options[positive], name == positive)
        elif re.match(r"-[a-zA-Z-]", word):
            path = name[2:].replace("-", "_")
            if signature.fields is None or path.split(".")[0] not in list_recipe_fields():
                raise UserError(f"{name} is not an option{_hint(name, options, signature)}")
            value = value if equals else next(following, None)
            if value is None:
                raise UserError(f"{name} needs a value")
            arguments.fields[path] = value
        else:
            plain.append(word)
    arguments.files += list_own_files(arguments.fields)
    arguments.fields = name_own_parts(arguments.fields)
    _place_words(signature, plain, arguments)
    return arguments


def list_recipe_fields() -> list[str]:
    """Return the names of the fields of a recipe."""
    return [each.name for each in read_class("recipe.recipe", "Recipe")]


def _hint(name: str, options: Mapping[str, Parameter], signature: Signature) -> str:
    if name in HINTS and (HINTS[name].split()[0] in options or signature.fields is not None):
        return f"; perhaps you meant {HINTS[name]}"
    known = [*options, *COMMON, "--own"]
    if signature.fields is not None:
        from ddim.recipe.codec import list_paths

        paths = [f"--{path}" for path in list_paths()]
        inner = [path for path in paths if path.endswith(f".{name.strip('-')}")]
        if inner:
            return f"; perhaps you meant {inner[0]}"
        known += paths
    return suggest(name, known)


def _give(arguments: Arguments, parameter: Parameter, value: Any) -> None:  # noqa: ANN401
    into = getattr(arguments, parameter.owner or "values")
    earlier = into.get(parameter.name)
    if parameter.repeats and earlier is not None:
        value = {**earlier, **value} if isinstance(value, dict) else [*earlier, *value]
    into[parameter.name] = value


def _place_words(signature: Signature, words: list[str], arguments: Arguments) -> None:
    """Give the words that are no options to the parameters that are words."""
    check_quotes(words)
    for parameter in signature.parameters:
        given = parameter.name in arguments.values
        if parameter.place == "words":
            taken, words = words, []
        elif parameter.place == "word":
            taken, words = words[:1], words[1:]
        else:
            if parameter.default is None and not given:
                raise UserError(f"{parameter.option} must be given")
            continue
        if not taken and parameter.default is None:
            raise UserError(f"{parameter.option} must be given{_newest_run(parameter)}")
        values = [_read_option(parameter, word, arguments) for word in taken]
        if parameter.place == "words":
            arguments.values[parameter.name] = values
        elif values:
            arguments.values[parameter.name] = values[0]
    if words:
        raise UserError(f"{quote(*words)} is one word too many")


def check_quotes(words: Sequence[str]) -> None:
    """Check that the shell has not split a path with spaces into several of these words."""
    for first, word in enumerate(words):
        for end in range(first + 2, min(len(words), first + 8) + 1):
            whole = " ".join(words[first:end])
            if not Path(word).exists() and Path(whole).exists():
                raise UserError(f"a path with spaces needs quotes: {quote(whole)}")


def _newest_run(parameter: Parameter) -> str:
    runs = Path("runs").glob("*/run.json") if parameter.option == "RUN" else ()
    newest = max(runs, key=lambda path: path.stat().st_mtime, default=None)
    return f", such as {newest.parent}" if newest else ""


# Values


def _read_option(parameter: Parameter, text: str, arguments: Arguments) -> Any:  # noqa: ANN401
    """Return the value of a parameter from text."""
    names = [kind.name for kind in parameter.types]
    if parameter.name == "callbacks":
        arguments.files += list_own_files({"": text})
        return [load_callback(text)]
    if names == ["Mapping"]:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{parameter.option} must be NAME=VALUE, got {text!r}")
        return {name: value}
    if names_own(text) and not Path(text).exists():
        arguments.files += list_own_files({"": text})
        return load_own(text) if "object" in names else name_own_parts({"": text})[""]
    words = parameter.place == "words"
    types = tuple(kind for kind in parameter.types if not (words and kind.name == "Sequence"))
    if words and not types:
        types = parameter.types[0].inner
    try:
        return read_value(types, text)
    except ValueError:
        known = [str(value) for kind in types if kind.name == "Literal" for value in kind.inner]
        hint = suggest(text, known)
        raise UserError(f"{parameter.option} must be {describe_types(types)}, got {text!r}{hint}") from None


def read_value(types: Sequence[Type], text: str) -> Any:  # noqa: ANN401
    """Return a text as a value of one of these types.

    Raises:
        ValueError: if it is none of them.
    """
    order = ("bool", "int", "float", "Literal", "tuple", "Sequence")
    names = [kind.name for kind in types]
    # A text that is also a number, such as the name of a class, stays a text.
    tried = [
        kind for kind in types if kind.name in order and not ("str" in names and kind.name in order[1:3])
    ]
    for kind in sorted(tried, key=lambda kind: order.index(kind.name)):
        try:
            if kind.name == "Sequence" and len(types) > 1 and "," not in text and not _is_range(kind, text):
                continue
            return _read_as(kind, text)
        except ValueError:
            continue
    if all(name in order for name in names) and names:
        raise ValueError(text)
    return Path(text) if names == ["Path"] else text


def _read_as(kind: Type, text: str) -> Any:  # noqa: ANN401
    if kind.name == "bool":
        words = {"true": True, "yes": True, "false": False, "no": False}
        if text not in words:
            raise ValueError(text)
        return words[text]
    if kind.name == "Literal":
        for value in kind.inner:
            if str(value) == text:
                return value
        raise ValueError(text)
    if kind.name == "tuple":
        parts = text.split(",")
        if len(parts) != len(kind.inner):
            raise ValueError(text)
        return tuple(
            read_value(inner, part) if part.strip() else None
            for part, inner in zip(parts, kind.inner, strict=True)
        )
    if kind.name == "Sequence":
        if [inner.name for inner in kind.inner] == ["int"]:
            return [value for part in text.split(",") for value in _read_range(part)]
        return [read_value(kind.inner, part) for part in split_list(text)]
    return {"int": int, "float": float}[kind.name](text)


def split_list(text: str) -> list[str]:
    """Return the items of a list such as "1,2"; "[1,2],[3,4]" is a list of two lists."""
    items = re.findall(r"\[([^\]]*)\]", text) if text.startswith("[") else text.split(",")
    return [item.strip() for item in items]


def _is_range(kind: Type, text: str) -> bool:
    return [inner.name for inner in kind.inner] == ["int"] and re.fullmatch(r"\d+-\d+", text) is not None


def _read_range(text: str) -> range:
    """Return the whole numbers of "5" or "0-35"."""
    low, dash, high = text.strip().partition("-")
    if not dash or not low:
        return range(int(text), int(text) + 1)
    if not 0 <= int(high) - int(low) < MOST:
        raise ValueError(text)
    return range(int(low), int(high) + 1)


def describe_types(types: Sequence[Type]) -> str:
    """Return what a value must be, in words."""
    plain = {
        "bool": "yes or no",
        "int": "a whole number",
        "float": "a number",
        "tuple": "numbers such as 1,2",
    }
    words = []
    for kind in types:
        if kind.name == "Literal":
            words.append("one of " + ", ".join(map(str, kind.inner)))
        elif kind.name == "Sequence":
            words.append("a list such as 1,2" if kind.inner[0].name in plain else "a list")
        else:
            words.append(plain.get(kind.name, "a word"))
    return " or ".join(dict.fromkeys(words))


# The call


def load_callback(text: str) -> Any:  # noqa: ANN401 (a Callback)
    """Return the callback that FILE.py:NAME names, or the tracker with this name."""
    from ddim.cli.own import load_callback as load_own_callback
    from ddim.training.callbacks import TRACKERS

    return TRACKERS[text]() if text in TRACKERS else load_own_callback(text)


def call_function(signature: Signature, arguments: Arguments) -> int:
    """Call the function of a command with its arguments, and print its result; return the exit code."""
    from ddim.cli.progress import Console, ProgressDisplay
    from ddim.machine.distributed import current_processes

    module, name = signature.home.split(":")
    function = getattr(import_module(f"ddim.{module}"), name)
    values = dict(arguments.values)
    if arguments.load:
        from ddim.sampling.pipeline import load

        first = next(p for p in signature.parameters if p.place != "option")
        given = values[first.name]
        loaded = [load(run, **arguments.load) for run in (given if first.place == "words" else [given])]
        values[first.name] = loaded if first.place == "words" else loaded[0]
    if arguments.fields:
        values["fields"] = arguments.fields
    takes = _list_names(signature.home)
    if arguments.machine:
        from ddim.training.machine import Machine

        values["machine"] = Machine(**arguments.machine)
    positional = []
    if star := next((p for p in signature.parameters if p.place == "words" and p.default == "()"), None):
        before = [p for p in signature.parameters if p.place == "word"]
        positional = [*(values.pop(p.name) for p in before), *values.pop(star.name, [])]
    if "callbacks" in takes:
        with Console(arguments.files) as console:
            hooks = {"callbacks": [*values.pop("callbacks", []), console], "progress": console.preparing}
            folder = function(*positional, **values, **hooks)
        return print_run(arguments, console, folder)
    with ProgressDisplay() as progress:
        if "progress" in takes:
            values["progress"] = progress
        result = function(*positional, **values)
    if any(p.owner == "save" for p in signature.parameters):
        result.save(**arguments.save)
    if current_processes().leads and result is not None:
        print_result(result, arguments.flags)
    return getattr(result, "exit_code", 0)


def _list_names(home: str) -> set[str]:
    """Return the names of all parameters of a function."""
    import ast

    _, function = find_definition(*home.split(":")) or ("", None)  # type: ignore[misc]
    assert isinstance(function, ast.FunctionDef)
    args = function.args
    names = {each.arg for each in (*args.posonlyargs, *args.args, *args.kwonlyargs)}
    if args.kwarg and isinstance(args.kwarg.annotation, ast.Subscript):
        names |= {
            each.name for each in read_class(home.split(":", maxsplit=1)[0], ast.unparse(args.kwarg.annotation.slice))
        }
    return names


def print_result(result: Any, flags: set[str]) -> None:  # noqa: ANN401 (the result of any function)
    """Print the result of a command: its text, its folder with --quiet, or with --json all of it."""
    folder = getattr(result, "folder", None)
    if "--json" in flags:
        plain = {"folder": result} if isinstance(result, Path) else result
        print_json(plain.to_json() if hasattr(plain, "to_json") else plain)
    elif "--quiet" in flags and folder is not None:
        print_text(str(folder))
    else:
        print_text(str(result.details if "--details" in flags and hasattr(result, "details") else result))


def print_run(arguments: Arguments, console: Any, folder: Path) -> int:  # noqa: ANN401 (a Console)
    """Say how a training ended, and print the run folder; with --json also its state and errors."""
    from ddim.experiments.index import read_run, run_record
    from ddim.machine.distributed import current_processes

    if current_processes().leads:
        console.done(folder)
        if "--json" in arguments.flags:
            print_json(run_record(read_run(folder)))
        else:
            print_text(str(folder))
    return 0
