"""The help page of a command, and the overview of all commands."""

from __future__ import annotations

import ast
import re
import shutil
import textwrap

from ddim.cli.signatures import Parameter, Signature

LEFT = 22
"""The width of the column of options."""


def write_help(name: str, signature: Signature) -> str:
    """Return the help page of a command, for the width of the terminal, at most 100 columns."""
    options = signature.options.values()
    blocks = [f"usage: {write_usage(name, signature)}", _fill(signature.about)]
    blocks += [
        block if block.startswith(" ") else _fill(block) for block in signature.text.split("\n\n") if block
    ]
    rows = [_write_row(p.option, describe(p)) for p in signature.words]
    rows += [_write_row(write_form(p), describe(p)) for p in options if not p.rare]
    if signature.fields is not None:
        rows.append(_write_row("--FIELD VALUE", signature.fields.removesuffix(".")))
    blocks.append("\n".join(rows))
    rare = [_write_row(write_form(p), describe(p)) for p in options if p.rare]
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
        text = re.split(r"\. |; |, by default|, which ", text)[0]
    default = parameter.default or "None"
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


def _write_row(left: str, text: str) -> str:
    lines = _wrap(text, " " * (LEFT + 2)) or [""]
    if len(left) <= LEFT - 2:
        return "\n".join([f"  {left:<{LEFT}}{lines[0].lstrip()}".rstrip(), *lines[1:]])
    return "\n".join([f"  {left}", *lines])


def _fill(text: str) -> str:
    return "\n".join(_wrap(text.replace("\n", " "), ""))


def _wrap(text: str, indent: str) -> list[str]:
    """Return lines of text; no word is broken."""
    width = min(100, shutil.get_terminal_size().columns - 1)
    options = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, **options)
