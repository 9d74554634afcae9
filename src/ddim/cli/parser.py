"""The parser of a command, which also writes its help page; the overview of all commands; completion."""

import argparse
import ast
import re
import shutil
import textwrap
from typing import Any, Literal, NoReturn

from ddim import __version__
from ddim.cli.commands import COMMANDS, GROUPS, describe_command
from ddim.cli.signatures import Parameter, Signature, read_signature
from ddim.errors import UserError
from ddim.plots.table import wrap_text

INTRODUCTION = """ddim learns from your images, generates new images like them, and measures how
good they are.

  ddim train photos/   learns from a folder, a .zip or a .tar, for 40 minutes
  ddim train           the same with flowers that the program draws itself"""

COMMON = {
    "--json": "print the whole result, or the error, as one JSON document",
    "--quiet": "print only errors and the result, or the result's folder",
    "--details": "also print notes, intervals and what cannot be compared",
    "--own": "load your own components from a file: --own FILE.py",
    "--debug": "show the traceback of an error",
}
"""The options of every command."""


class CommandParser(argparse.ArgumentParser):
    """A parser that raises its errors as `UserError`, and leaves out what was not given."""

    def __init__(self, usage: str, description: str, epilog: str) -> None:
        super().__init__(
            usage=usage,
            description=description,
            epilog=epilog,
            formatter_class=_HelpPage,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
            add_help=False,
        )
        # Values such as -2,5 and -.5 are no options.
        self._negative_number_matcher = re.compile(r"-[\d.]")

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError`; if a run is missing, name the newest ones."""
        if message.endswith(" RUN"):
            from ddim.runs.folder import name_newest_runs

            message += f"; the newest runs: {name_newest_runs()}"
        raise UserError(message.removeprefix("argument "))


class _HelpPage(argparse.HelpFormatter):
    """A help page of at most 100 columns. It breaks no words, and keeps paragraphs with indented lines."""

    def __init__(self, prog: str) -> None:
        width = min(100, shutil.get_terminal_size().columns)
        super().__init__(prog, max_help_position=24, width=width)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrap_text(text, width).splitlines()

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        wrapped = (wrap_text(paragraph.replace("\n", " "), width) for paragraph in paragraphs)
        kept = zip(paragraphs, wrapped, strict=True)
        return "\n\n".join(old if "\n " in f"\n{old}" else new for old, new in kept)


def write_overview() -> str:
    """Return the list of commands; those that a beginner needs come first."""
    end = f"`ddim COMMAND --help` explains a command. This is version {__version__}."
    page = CommandParser("ddim COMMAND [options]", INTRODUCTION, end)
    for heading, group in GROUPS.items():
        listed = page.add_argument_group(heading)
        for name in group:
            listed.add_argument(name, help=describe_command(name))
    common = page.add_argument_group("Every command takes")
    for option, text in COMMON.items():
        common.add_argument(option, action="store_true", help=text)
    return page.format_help()


def write_completion(shell: Literal["bash", "zsh", "tcsh"]) -> str:
    """Print a script that completes commands, options and paths in a shell.

    Args:
        shell: the shell.

    Commands:
        ddim completion bash > ~/.local/share/bash-completion/completions/ddim
        ddim completion zsh > ~/.zfunc/_ddim
    """
    import shtab

    whole = argparse.ArgumentParser(prog="ddim")
    commands = whole.add_subparsers(dest="command")
    for name, home in COMMANDS.items():
        parents = [build_parser(name, read_signature(home))]
        parser = commands.add_parser(name, help=describe_command(name), parents=parents, add_help=False)
        for action in parser._actions:
            if action.nargs != 0 and not action.choices:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(whole, shell=shell)


def build_parser(name: str, signature: Signature) -> CommandParser:
    """Return the parser of a command. It does not convert values."""
    doc = signature.doc
    examples = "examples:\n" + textwrap.indent(doc.commands, "  ") if doc.commands else ""
    parser = CommandParser(write_usage(name, signature), f"{doc.about}\n\n{doc.text}", examples)
    usual, rare = parser.add_argument_group(), parser.add_argument_group("more options")
    for parameter in signature.parameters:
        name = parameter.option if parameter.place == "option" else parameter.key
        (rare if parameter.rare else usual).add_argument(name, **_describe_argument(parameter))
    if signature.fields is not None:
        usual.add_argument("--FIELD", metavar="VALUE", help=signature.fields.removesuffix("."))
    for option in COMMON:
        action = "append" if option == "--own" else "store_true"
        text = "print JSON; `ddim` explains --quiet, --details, --own"
        rare.add_argument(option, action=action, help=text if option == "--json" else argparse.SUPPRESS)
    return parser


def _describe_argument(parameter: Parameter) -> dict[str, Any]:
    """Return the arguments of `add_argument` for a parameter, all but its name."""
    options: dict[str, Any] = {"help": describe(parameter).replace("%", "%%")}
    if parameter.has_only("Literal"):
        options["choices"] = [str(value) for value in parameter.types[0].inner]
    if parameter.place != "option":
        options["metavar"] = parameter.option
        counts = {None: None, "()": "*"}
        options["nargs"] = counts.get(parameter.default, "?")
        return options
    options["dest"] = parameter.key
    if parameter.is_flag:
        options["action"] = "store_true" if parameter.default == "False" else argparse.BooleanOptionalAction
        return options
    repeats = parameter.has_only("Mapping") or parameter.has_only("Sequence")
    options["action"] = "append" if repeats else "store"
    return options | {"metavar": write_metavar(parameter), "required": parameter.default is None}


# The texts of a help page, which the documentation shows too


def write_usage(name: str, signature: Signature) -> str:
    """Return the form of a command, such as "ddim vary RUN IMAGE [options]"."""
    forms = [f"ddim {name}"]
    for parameter in signature.words:
        form = parameter.option + (" ..." if parameter.place == "words" else "")
        forms.append(form if parameter.default is None else f"[{form}]")
    forms += [write_form(p) for p in signature.options.values() if p.default is None]
    return " ".join([*forms, "[options]"])


def describe(parameter: Parameter, *, whole: bool = False) -> str:
    """Return the help of a parameter with its default; of a rare one, unless `whole`, the first sentence."""
    text = re.sub(r"(?<!\.)\.$", "", parameter.help)
    if parameter.rare and not whole:
        text = re.split(r"(?<!\.)\. |; |, by default|, which ", text)[0]
    default = parameter.default or "None"
    if default in ("None", "False", "()") or "default" in text:
        return text
    try:
        value = ast.literal_eval(default)
    except ValueError:
        return text
    return f"{text} (default: {'yes' if value is True else value})"


def write_form(parameter: Parameter) -> str:
    """Return an option with its value, such as "--steps N" or "--compile, --no-compile"."""
    if not parameter.is_flag:
        return f"{parameter.option} {write_metavar(parameter)}"
    negative = f", --no-{parameter.option[2:]}"
    return parameter.option + ("" if parameter.default == "False" else negative)


def write_metavar(parameter: Parameter) -> str:
    """Return the name of the value of an option, by the first of its types."""
    kind = parameter.types[0]
    if kind.name == "Literal":
        return "|".join(map(str, kind.inner))
    short = {"int": "N", "float": "X", "tuple": "LOW,HIGH", "Mapping": "NAME=VALUE"}
    return short.get(kind.name, parameter.option.strip("-").upper())
