"""The help page of a command, and the overview of all commands."""

from __future__ import annotations

import ast
import re
import shutil
import textwrap

from ddim import __version__
from ddim.cli.commands import GROUPS, describe_command
from ddim.cli.output import wrap_words
from ddim.cli.signatures import Parameter, Signature

LEFT = 22
"""The width of the column of options."""


OVERVIEW = """ddim learns from your images, generates new images like them, and measures how
good they are.

{start}

  ddim train photos/   learns from a folder, a .zip or a .tar, for 40 minutes
  ddim train           the same with flowers that the program draws itself

{groups}

`ddim COMMAND --help` explains a command. Every command takes
{common}

This is version {version}.
"""

COMMON = {
    "--json": "print the whole result, or the error, as one JSON document",
    "--quiet": "print only errors and the result, or the result's folder",
    "--details": "also print notes, intervals and what cannot be compared",
    "--own FILE.py": "load your own components: a schedule, a network, ...",
    "--debug": "show the traceback of an error",
}
"""The options of every command."""


def write_overview() -> str:
    """Return the list of commands; those that a beginner needs come first."""
    start, *groups = (
        "\n".join([heading, *(write_row(name, describe_command(name), 14) for name in group)])
        for heading, group in GROUPS.items()
    )
    common = "\n".join(write_row(option, text, 15) for option, text in COMMON.items())
    return OVERVIEW.format(start=start, groups="\n\n".join(groups), common=common, version=__version__)


def write_help(name: str, signature: Signature) -> str:
    """Return the help page of a command, for the width of the terminal, at most 100 columns."""
    options = signature.options.values()
    blocks = [f"usage: {write_usage(name, signature)}", "\n".join(_wrap(signature.about))]
    paragraphs = filter(None, signature.text.split("\n\n"))
    blocks += [each if each.startswith(" ") else "\n".join(_wrap(each)) for each in paragraphs]
    rows = [write_row(p.option, describe(p)) for p in signature.words]
    rows += [write_row(write_form(p), describe(p)) for p in options if not p.rare]
    if signature.fields is not None:
        rows.append(write_row("--FIELD VALUE", signature.fields.removesuffix(".")))
    blocks.append("\n".join(rows))
    rare = [write_row(write_form(p), describe(p)) for p in options if p.rare]
    common = _wrap("--json, --quiet, --details, --own FILE.py: as in every command, see `ddim`", "  ")
    blocks.append("more options:\n" + "\n".join([*rare, *common]))
    if signature.commands:
        blocks.append("examples:\n" + textwrap.indent(signature.commands, "  "))
    return "\n\n".join(blocks) + "\n"


def write_usage(name: str, signature: Signature) -> str:
    """Return the form of a command, such as "ddim vary RUN IMAGE [options]"."""
    words = [p.option + (" ..." if p.place == "words" else "") for p in signature.words]
    words = [w if p.default is None else f"[{w}]" for w, p in zip(words, signature.words, strict=True)]
    needed = [write_form(p) for p in signature.options.values() if p.default is None]
    return " ".join([f"ddim {name}", *words, *needed, "[options]"])


def describe(parameter: Parameter, *, whole: bool = False) -> str:
    """Return the help of a parameter with its default; of a rare one, unless `whole`, the first sentence."""
    text = re.sub(r"(?<!\.)\.$", "", parameter.help)
    if parameter.rare and not whole:
        text = re.split(r"(?<!\.)\. |; |, by default|, which ", text)[0]
    default = parameter.default or "None"
    if parameter.is_flag and default == "True":
        text = f"do not {text}"
    if default in ("None", "True", "False", "()") or "default" in text:
        return text
    try:
        return f"{text} (default: {ast.literal_eval(default)})"
    except ValueError:
        return text


def write_form(parameter: Parameter) -> str:
    """Return an option with its value, such as "--steps N" or "--no-flip"."""
    if not parameter.is_flag:
        return f"{parameter.option} {write_metavar(parameter)}"
    negative = f"--no-{parameter.option[2:]}"
    return {"True": negative, "False": parameter.option}.get(
        parameter.default or "", f"{parameter.option}, {negative}"
    )


def write_metavar(parameter: Parameter) -> str:
    """Return the name of the value of an option, by its type."""
    if parameter.name == "callbacks":
        return "FILE.py:NAME"
    names = [kind.name for kind in parameter.types]
    first = parameter.types[0] if parameter.types else None
    if names == ["Literal"] and first and len(choices := "|".join(map(str, first.inner))) <= LEFT:
        return choices
    if names == ["Mapping"]:
        return "NAME=VALUE"
    short = {"int": "N", "float": "X", "tuple": "LOW,HIGH"}
    if first and first.name in short:
        return short[first.name] + (",..." if "Sequence" in names else "")
    if names == ["Sequence"] and first:
        return "A,B,..."
    return {"out": "DIR"}.get(
        parameter.name, "PATH" if names == ["Path"] else parameter.option.lstrip("-").upper()
    )


def write_row(left: str, text: str, column: int = LEFT) -> str:
    """Return a row of two columns; the left one has `column` characters, and the right one is wrapped."""
    lines = _wrap(text, " " * (column + 2)) or [""]
    if len(left) <= column - 2:
        return "\n".join([f"  {left:<{column}}{lines[0].lstrip()}".rstrip(), *lines[1:]])
    return "\n".join([f"  {left}", *lines])


def _wrap(text: str, indent: str = "") -> list[str]:
    return wrap_words(text.replace("\n", " "), min(100, shutil.get_terminal_size().columns - 1), indent)
