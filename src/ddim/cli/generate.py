"""Run the public function of a command: read its arguments from words, call it, and print its result."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.cli.output import draw, print_json, print_text
from ddim.cli.own import find_file, load_callback, load_own, load_parts, name_part
from ddim.cli.signatures import Parameter, Signature, read_class
from ddim.cli.values import read_text
from ddim.errors import UserError, quote, suggest

if TYPE_CHECKING:
    from ddim.cli.progress import Console

COMMON = ("--json", "--quiet", "--details")
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
"""The option that a user of another program may mean."""


@dataclass
class Arguments:
    """The arguments of a command.

    Attributes:
        given: the arguments of the function (""), of `ddim.load`, of `Machine`, and of the method `save` of
            the result, keyed by name.
        fields: the fields of a recipe, as text keyed by path.
        files: the files of the user's components, which printed commands name with --own.
        flags: the flags in `COMMON` that were given.
    """

    given: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {owner: {} for owner in ("", "load", "machine", "save")}
    )
    fields: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)

    def give(self, parameter: Parameter, value: Any) -> None:  # noqa: ANN401
        """Add the value of a parameter to its earlier values, or replace the earlier value."""
        into = self.given[parameter.owner]
        if parameter.repeats and parameter.name in into:
            before = into[parameter.name]
            value = before | value if isinstance(value, dict) else [*before, *value]
        into[parameter.name] = value


def read_arguments(signature: Signature, words: Sequence[str]) -> Arguments:
    """Return the arguments that the words of a command line give.

    Raises:
        UserError: if an option is unknown, or a value is missing or cannot be read.
    """
    arguments, plain, options = Arguments(), [], signature.options
    following = iter(words)

    def next_value(name: str, equals: str, value: str) -> str:
        value = value if equals else next(following, "--")
        if not equals and (value.startswith("--") or value in options):
            raise UserError(f"{name} needs a value")
        return value

    for word in following:
        name, equals, value = re.sub(r"^(-[a-z])(?=\d)", r"\1=", word).partition("=")
        flag = name.replace("--no-", "--", 1)
        if word == "--":
            plain += following
        elif word in COMMON:
            arguments.flags.add(word)
        elif name == "--own":
            load_parts(file := next_value(name, equals, value))
            arguments.files.append(file)
        elif name in options and not options[name].is_flag:
            text = next_value(name, equals, value)
            arguments.give(options[name], _read_value(options[name], text, arguments))
        elif flag in options and options[flag].is_flag and not equals:
            arguments.give(options[flag], name == flag)
        elif re.match(r"-[a-zA-Z-]", word):
            path = name[2:].replace("-", "_")
            if signature.fields is None or path.split(".")[0] not in list_recipe_fields():
                raise UserError(f"{name} is not an option{hint_at(name, signature)}")
            arguments.fields[path] = next_value(name, equals, value)
        else:
            plain.append(word)
    arguments.files += filter(None, map(find_file, arguments.fields.values()))
    arguments.fields = {path: name_part(text) for path, text in arguments.fields.items()}
    _place_words(signature, plain, arguments)
    return arguments


def list_recipe_fields() -> list[str]:
    """Return the names of the fields of a recipe."""
    return [each.name for each in read_class("recipe.recipe", "Recipe")]


def hint_at(name: str, signature: Signature) -> str:
    """Return the end of a message that names the option, or the field of a recipe, that a user may mean."""
    meant, known = HINTS.get(name, ""), [*signature.options, *COMMON, "--own"]
    if meant and (meant.split()[0] in known or signature.fields is not None):
        return f"; perhaps you meant {meant}"
    if signature.fields is not None:
        from ddim.recipe.codec import list_paths

        paths = [f"--{path}" for path in list_paths()]
        known += paths
        if inner := [path for path in paths if path.endswith(f".{name.strip('-')}")]:
            return f"; perhaps you meant {inner[0]}"
    return suggest(name, known)


def _place_words(signature: Signature, words: list[str], arguments: Arguments) -> None:
    """Give the words that are no options to the parameters that are words."""
    check_quotes(words)
    for parameter in signature.words:
        count = len(words) if parameter.place == "words" else 1
        taken, words = words[:count], words[count:]
        if not taken and parameter.default is None:
            raise UserError(f"{parameter.option} must be given{_newest_run(parameter)}")
        values = [_read_value(parameter, word, arguments) for word in taken]
        if values:
            arguments.give(parameter, values if parameter.place == "words" else values[0])
    if words:
        raise UserError(f"{quote(*words)} is more than this command takes")
    for option, parameter in signature.options.items():
        if parameter.default is None and parameter.name not in arguments.given[""]:
            raise UserError(f"{option} must be given")


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


def _read_value(parameter: Parameter, text: str, arguments: Arguments) -> Any:  # noqa: ANN401
    """Return the value of a parameter; FILE.py:NAME is what the user wrote."""
    if parameter.has_only("Mapping"):
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{parameter.option} must be NAME=VALUE, got {text!r}")
        return {name: value}
    if parameter.name == "callbacks":
        return [load_callback(text)]
    if file := find_file(text):
        arguments.files.append(file)
        return load_own(text) if any(kind.name == "object" for kind in parameter.types) else name_part(text)
    types = parameter.types
    if parameter.place == "words":
        types = tuple(kind for kind in types if kind.name != "Sequence") or types[0].inner
    return read_text(parameter.option, types, text)


# The call


def call_function(signature: Signature, arguments: Arguments) -> int:
    """Call the function of a command with its arguments, and print its result; return the exit code."""
    from ddim.cli.progress import Console, ProgressDisplay
    from ddim.machine.distributed import current_processes

    module, name = signature.home.split(":")
    function, values = getattr(import_module(f"ddim.{module}"), name), _complete(signature, arguments)
    positional = []
    if signature.words and signature.words[-1].default == "()":  # *names
        positional = [values.pop(p.name) for p in signature.words[:-1]]
        positional += values.pop(signature.words[-1].name, [])
    if "callbacks" in signature.names:
        with Console(arguments.files) as console:
            values |= {"callbacks": [*values.get("callbacks", []), console], "progress": console.preparing}
            folder = function(*positional, **values)
        if current_processes().leads:
            print_run(arguments, console, folder)
        return 0
    if "ready" in signature.names:
        values["ready"] = partial(print_result, flags=arguments.flags)
    with ProgressDisplay() as progress:
        values |= {"progress": progress} if "progress" in signature.names else {}
        result = function(*positional, **values)
    if any(p.owner == "save" for p in signature.parameters):
        result.save(**arguments.given["save"])
    if current_processes().leads and result is not None:
        print_result(result, arguments.flags)
    return getattr(result, "exit_code", 0)


def _complete(signature: Signature, arguments: Arguments) -> dict[str, Any]:
    """Return the arguments of the function, with runs loaded as the options say."""
    values, load_options = arguments.given[""], arguments.given["load"]
    if load_options:
        from ddim.sampling.pipeline import load

        first = signature.words[0]
        runs = values[first.name]
        several = isinstance(runs, list)
        loaded = [load(run, **load_options) for run in (runs if several else [runs])]
        values[first.name] = loaded if several else loaded[0]
    if arguments.given["machine"]:
        from ddim.training.machine import Machine

        values["machine"] = Machine(**arguments.given["machine"])
    return values | ({"fields": arguments.fields} if arguments.fields else {})


def print_result(result: Any, flags: set[str]) -> None:  # noqa: ANN401 (the result of any function)
    """Print the result of a command: its text, its folder with --quiet, or with --json all of it."""
    folder = getattr(result, "folder", None)
    if hasattr(result, "shown"):
        draw(result.shown, sys.stderr, rows=2)
    if "--json" in flags:
        plain = {"folder": result} if isinstance(result, Path) else result
        print_json(plain.to_json() if hasattr(plain, "to_json") else plain)
    elif "--quiet" in flags and folder is not None:
        print_text(str(folder))
    else:
        print_text(str(getattr(result, "details", result) if "--details" in flags else result))


def print_run(arguments: Arguments, console: Console, folder: Path) -> None:
    """Say how a training ended, and print the run folder; with --json also its state and errors."""
    from ddim.experiments.index import read_run, run_record

    console.done(folder)
    if "--json" in arguments.flags:
        print_json(run_record(read_run(folder)))
    else:
        print_text(str(folder))
