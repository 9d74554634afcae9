"""Pages of the commands, written from their parsers: the same words as `ddim COMMAND --help`."""

from __future__ import annotations

import argparse
import re

from ddim.cli import GROUPS, build_parser
from ddim.cli.parser import Parser

EXAMPLES = re.compile(r"examples?:")


def write_commands() -> dict[str, str]:
    """Return the page of each command and their index, keyed by file name."""
    names = [name for group in GROUPS.values() for name in group]
    pages = {f"{name}.md": write_command(name) for name in names}
    return {"index.md": write_index(), **pages}


def write_index() -> str:
    """Return the page that lists the commands in their groups."""
    lines = [
        "# Commands",
        "",
        "`ddim COMMAND --help` shows the same text in a terminal. Results go to standard output, and all",
        "else to standard error. [Use commands in scripts](../howto/scripts.md) lists the exit codes.",
    ]
    for heading, group in GROUPS.items():
        lines += ["", f"## {heading}", ""]
        for name, text in group.items():
            lines += [f"[`ddim {name}`]({name}.md)", f": {escape_prose(text)}", ""]
        lines += ["```{toctree}", ":hidden:", "", *group, "```"]
    return "\n".join(lines) + "\n"


def write_command(name: str) -> str:
    """Return the page of one command."""
    parser = build_parser(name)
    about = escape_prose(parser.description or "")
    parts = [f"# ddim {name}", about, *_write_parser(parser)]
    for kind, inner in parser.commands.items():
        parts += [f"## ddim {name} {kind}", escape_prose(inner.description or ""), *_write_parser(inner)]
    return "\n\n".join(parts) + "\n"


def _write_parser(parser: Parser) -> list[str]:
    usage = " ".join(parser.format_usage().split()).removeprefix("usage: ")
    parts = [f"```text\n{usage}\n```"]
    notes, examples = split_epilog(parser.epilog or "")
    if examples:
        # `rubric` is a heading that is not in the table of contents.
        parts += [":::{rubric} Examples\n:::", f"```sh\n{format_examples(examples)}\n```"]
    formatter = argparse.HelpFormatter(parser.prog, width=100)
    rows = [_write_argument(formatter, action) for action in parser.arguments]
    # Kinds, such as those of `ddim plot`, have sections of their own.
    parts += [":::{rubric} Arguments and options\n:::", *[row for row in rows if row]]
    if notes:
        parts += [":::{rubric} Details\n:::", *map(format_note, notes)]
    return parts


def _write_argument(formatter: argparse.HelpFormatter, action: argparse.Action) -> str:
    """Return an argument as an item of a definition list: its forms, and its help."""
    if action.help in (None, argparse.SUPPRESS) or "--help" in action.option_strings:
        return ""
    name = (
        formatter._format_args(action, (action.metavar or action.dest).upper()) if action.nargs != 0 else ""
    )
    if isinstance(action.metavar, str):
        name = action.metavar if action.nargs != 0 else ""
    forms = [f"{option} {name}".strip() for option in action.option_strings] or [name]
    help_text = formatter._expand_help(action)
    return f"`{', '.join(forms)}`\n: {escape_prose(help_text)}"


def split_epilog(epilog: str) -> tuple[list[str], str]:
    """Return the paragraphs of an epilog, and the examples at its end."""
    paragraphs = [part.strip("\n") for part in re.split(r"\n\s*\n", epilog) if part.strip()]
    notes, examples = [], ""
    for part in paragraphs:
        head, _, rest = part.partition("\n")
        if EXAMPLES.fullmatch(head):
            examples = rest
        else:
            notes.append(part)
    return notes, examples


def format_examples(text: str) -> str:
    """Return examples as commands of a shell; the text beside a command becomes a comment."""
    lines = []
    for line in text.splitlines():
        command, gap, about = re.fullmatch(r"\s*(\S.*?)(\s{2,}(?=\S)|$)(.*)", line).groups()  # type: ignore
        lines.append(f"{command}  # {about}" if gap and about else command)
    return "\n".join(lines)


def format_note(text: str) -> str:
    """Return a paragraph: prose as prose, and lines that are aligned in columns as they are."""
    lines = text.splitlines()
    if all(not line.startswith(" ") for line in lines):
        return escape_prose(" ".join(lines))
    # The sentence before the first indented line is prose.
    first = next(k for k, line in enumerate(lines) if line.startswith(" "))
    block = "```text\n" + "\n".join(lines[first:]) + "\n```"
    return f"{escape_prose(' '.join(lines[:first]))}\n\n{block}" if first else block


def escape_prose(text: str) -> str:
    """Return text with the signs of Markdown escaped, but for `code`."""
    pieces = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(
        piece if piece.startswith("`") and len(piece) > 1 else re.sub(r"([\\*_<>\[\]#|$])", r"\\\1", piece)
        for piece in pieces
    )
