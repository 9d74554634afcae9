"""Run the public function of a command: read its arguments from words, call it, and print its result."""

import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

from ddim.cli.output import draw, print_json, print_text
from ddim.cli.own import find_file, load_own, load_parts, name_own_part
from ddim.cli.parser import COMMON, build_parser
from ddim.cli.signatures import Parameter, Signature, Type, read_class
from ddim.errors import UserError, quote, suggest
from ddim.recipe.options import SAMPLING_FIELDS, split_list, strip_brackets

HINTS = {
    "--image-size": "--size",
    "--num": "-n",
    "--epochs": "--images",
    "--batch-size": "--optim.batch",
    "--format": "--to",
}
"""The option that a user of another program may mean."""

NAMES = {
    "bool": "yes or no",
    "int": "a whole number",
    "float": "a number",
    "Literal": "one of",
    "tuple": "two numbers such as 1,2",
    "Sequence": "a list such as 1,2",
}
"""The types that are tried in this order, with their names in messages. Any other type takes the text."""

WORDS = {"true": True, "yes": True, "false": False, "no": False}


@dataclass(frozen=True)
class Arguments:
    """The arguments of a command.

    Attributes:
        given: the arguments of the function (""), of `ddim.load`, of `Machine`, and of the method `save` of
            the result, keyed by name.
        fields: the fields of a recipe, as text keyed by path.
        files: the files of the user's components, which printed commands name with --own.
        flags: those of "json", "quiet" and "details" that were given.
    """

    given: dict[str, dict[str, Any]]
    fields: dict[str, str]
    files: list[str]
    flags: set[str]


def read_arguments(name: str, signature: Signature, words: Sequence[str]) -> Arguments:
    """Return the arguments that the words of a command line give.

    Raises:
        UserError: if an option is unknown, or a value is missing or cannot be read.
    """
    plain, fields = _split_fields(signature, words)
    namespace, unknown = build_parser(name, signature).parse_known_intermixed_args(plain)
    for word in unknown:
        if word.startswith("-"):
            raise UserError(f"{word} is not an option{hint_at(word.partition('=')[0], signature)}")
    if unknown:
        raise UserError(f"{quote(*unknown)} is more than this command takes; a path with spaces needs quotes")
    found = vars(namespace)
    files = [*found.get("own", []), *(find_file(word.rpartition("=")[2]) for word in words)]
    for file in found.get("own", []):
        load_parts(file)
    given: dict[str, dict[str, Any]] = {owner: {} for owner in ("", "load", "machine", "save")}
    for parameter in signature.parameters:
        if parameter.key in found:
            given[parameter.owner][parameter.name] = _read_argument(parameter, found[parameter.key])
    fields = {path: name_own_part(text) for path, text in fields.items()}
    return Arguments(given, fields, list(filter(None, files)), {"json", "quiet", "details"} & found.keys())


def _split_fields(signature: Signature, words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the words without those that set a field of a recipe, and these fields."""
    known = [] if signature.fields is None else [p.name for p in read_class("recipe.recipe", "Recipe")]
    plain, fields, following = [], {}, iter(words)
    for word in following:
        option, equals, value = word.partition("=")
        path = option.removeprefix("--").replace("-", "_")
        if not option.startswith("--") or option in signature.options or path.split(".")[0] not in known:
            plain.append(word)
            continue
        fields[path] = value if equals else next(following, "--")
        if fields[path].startswith("--"):
            raise UserError(f"{option} needs a value")
    return plain, fields


def hint_at(name: str, signature: Signature) -> str:
    """Return the end of a message that names the option, or the field of a recipe, that a user may mean."""
    known = [*signature.options, *COMMON]
    if signature.fields is not None:
        from ddim.recipe.codec import list_paths

        # Where a loaded run is used, only fields of sampling can be changed.
        sampling = any(p.owner == "load" for p in signature.parameters)
        paths = [path for path in list_paths() if not sampling or path.split(".")[0] in SAMPLING_FIELDS]
        known += [f"--{path}" for path in paths]
    meant = [
        option for option in known if option == HINTS.get(name) or option.endswith(f".{name.strip('-')}")
    ]
    return f"; perhaps you meant {meant[0]}" if meant else suggest(name, known)


def _read_argument(parameter: Parameter, given: bool | str | list[str]) -> Any:  # noqa: ANN401
    """Return the value of a parameter from its words."""
    if isinstance(given, bool):
        return given
    if isinstance(given, str):
        return _read_value(parameter, given)
    values = [_read_value(parameter, text) for text in given]
    if parameter.has_only("Mapping"):
        return dict(values)
    return values if parameter.place == "words" or parameter.name == "callbacks" else [*chain(*values)]


def _read_value(parameter: Parameter, text: str) -> Any:  # noqa: ANN401
    """Return the value of a word or of an option; FILE.py:NAME is what the user wrote."""
    types = parameter.types
    if parameter.has_only("Mapping"):
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{parameter.option} must be NAME=VALUE, got {text!r}")
        return name, value
    if parameter.name == "callbacks":
        callback = load_own(text)
        return callback() if isinstance(callback, type) else callback
    if find_file(text):
        return load_own(text) if any(kind.name == "object" for kind in types) else name_own_part(text)
    try:
        return text if parameter.place == "words" else read_value(types, text)
    except ValueError:
        wanted = " or ".join(dict.fromkeys(NAMES[kind.name] for kind in types))
        raise UserError(f"{parameter.option} must be {wanted}, got {text!r}") from None


def read_value(types: Sequence[Type], text: str) -> Any:  # noqa: ANN401
    """Return a text as a value of one of these types.

    Raises:
        ValueError: if it is none of them.
    """
    names = {kind.name for kind in types}
    for name in NAMES:
        # A text that looks like a number, such as the name of a class, stays a text.
        if name in ("int", "float") and "str" in names:
            continue
        for kind in types:
            if kind.name == name:
                with suppress(ValueError, KeyError):
                    return _read_as(kind, text, alone=len(types) == 1)
    if names <= {*NAMES}:
        raise ValueError(text)
    return text


def _read_as(kind: Type, text: str, *, alone: bool) -> Any:  # noqa: ANN401
    """Return a text as a value of a type in `NAMES`; `alone` if the option takes no other type."""
    if kind.name == "bool":
        return WORDS[text]
    if kind.name == "Literal":
        return {str(value): value for value in kind.inner}[text]
    if kind.name == "tuple":
        pairs = zip(kind.inner, split_list(text), strict=True)
        return tuple(read_value(types, part) if part else None for types, part in pairs)
    if kind.name == "Sequence":
        return _read_list(kind.inner, text, alone=alone)
    return int(text) if kind.name == "int" else float(text)


def _read_list(types: Sequence[Type], text: str, *, alone: bool) -> list[Any]:
    """Return the values of a list: "1,2", "[1,2],[3,4]", or whole numbers such as "0-35,70"."""
    numbers = {kind.name for kind in types} <= {"int", "float"}
    if not (alone or numbers or "," in text):
        raise ValueError(text)
    parts = split_list(text)
    if text.startswith("["):
        parts = [strip_brackets(part) for part in parts]
    values = []
    for part in parts:
        span = re.fullmatch(r"(\d+)-(\d+)", part)
        if span and numbers:
            values += range(int(span[1]), int(span[2]) + 1)
        else:
            values.append(read_value(types, part))
    return values


# The call


def call_function(signature: Signature, arguments: Arguments) -> int:
    """Call the function of a command with its arguments, and print its result; return the exit code."""
    from ddim.cli.progress import Console, ProgressDisplay
    from ddim.experiments.index import read_run, run_record
    from ddim.machine.distributed import current_processes

    if out := arguments.given["save"].get("out"):
        from ddim.sampling.edits import check_edit_folder

        check_edit_folder(Path(out))
    module, name = signature.home.split(":")
    function, values = getattr(import_module(f"ddim.{module}"), name), _complete(signature, arguments)
    positional: list[Any] = []
    for word in signature.words:
        if word.name in values:
            given = values.pop(word.name)
            positional += given if word.place == "words" else [given]
    if "ready" in signature.names:
        values["ready"] = partial(print_result, flags=arguments.flags)
    with Console(arguments.files) if "callbacks" in signature.names else ProgressDisplay() as display:
        if "progress" in signature.names:
            values["progress"] = display
        if isinstance(display, Console):
            values["callbacks"] = [*values.get("callbacks", []), display]
        result = function(*positional, **values)
    if any(p.owner == "save" for p in signature.parameters):
        result.save(**arguments.given["save"])
    if not current_processes().leads or result is None:
        return 0
    if isinstance(display, Console):
        display.done(result)
        result = run_record(read_run(result)) if "json" in arguments.flags else result
    print_result(result, arguments.flags)
    return getattr(result, "exit_code", 0)


def _complete(signature: Signature, arguments: Arguments) -> dict[str, Any]:
    """Return the arguments of the function, with runs loaded as the options say."""
    values, load_options = arguments.given[""], arguments.given["load"]
    if load_options:
        from ddim.sampling.pipeline import load

        run = signature.words[0].name
        values[run] = load(values[run], **load_options)
    if arguments.given["machine"]:
        from ddim.training.machine import Machine

        values["machine"] = Machine(**arguments.given["machine"])
    return values | ({"fields": arguments.fields} if arguments.fields else {})


def print_result(result: Any, flags: set[str]) -> None:  # noqa: ANN401 (the result of any function)
    """Print the result of a command: its text, its folder with --quiet, or with --json all of it."""
    folder = getattr(result, "folder", None)
    if hasattr(result, "shown"):
        draw(result.shown, sys.stderr, rows=2)
    if "json" in flags:
        plain = {"folder": result} if isinstance(result, Path) else result
        print_json(plain.to_json() if hasattr(plain, "to_json") else plain)
    elif "quiet" in flags and folder is not None:
        print_text(str(folder))
    else:
        print_text(str(getattr(result, "details", result) if "details" in flags else result))
