"""Pages of the commands, written from their functions: the same words as `ddim COMMAND --help`."""

from __future__ import annotations

import re

from ddim.cli.commands import COMMANDS, GROUPS, describe_command
from ddim.cli.parser import describe, write_form, write_usage
from ddim.cli.signatures import Parameter, read_signature


def write_commands() -> dict[str, str]:
    """Return the page of each command and their index, keyed by file name."""
    return {"index.md": write_index(), **{f"{name}.md": write_command(name) for name in COMMANDS}}


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
        for name in group:
            lines += [f"[`ddim {name}`]({name}.md)", f": {escape_prose(describe_command(name))}", ""]
        lines += ["```{toctree}", ":hidden:", "", *group, "```"]
    return "\n".join(lines) + "\n"


def write_command(name: str) -> str:
    """Return the page of one command."""
    signature = read_signature(COMMANDS[name])
    parts = [
        f"# ddim {name}",
        escape_prose(signature.doc.about),
        f"```text\n{write_usage(name, signature)}\n```",
    ]
    parts += [escape_prose(paragraph) for paragraph in signature.doc.text.split("\n\n") if paragraph]
    if signature.doc.commands:
        # `rubric` is a heading that is not in the table of contents.
        parts += [":::{rubric} Examples\n:::", f"```sh\n{format_examples(signature.doc.commands)}\n```"]
    parts += [":::{rubric} Arguments and options\n:::"]
    parts += [_write_item(each) for each in signature.parameters]
    if signature.fields is not None:
        parts.append(f"`--FIELD VALUE`\n: {escape_prose(signature.fields)}")
    return "\n\n".join(parts) + "\n"


def _write_item(parameter: Parameter) -> str:
    """Return a parameter as an item of a definition list: its forms, and its help."""
    form = write_form(parameter) if parameter.place == "option" else parameter.option
    return f"`{form}`\n: {escape_prose(describe(parameter, whole=True)) or 'see above'}"


def format_examples(text: str) -> str:
    """Return examples as commands of a shell; the text beside a command becomes a comment."""
    lines = []
    for line in text.splitlines():
        command, gap, about = re.fullmatch(r"\s*(\S.*?)(\s{2,}(?=\S)|$)(.*)", line).groups()  # type: ignore
        lines.append(f"{command}  # {about}" if gap and about else command)
    return "\n".join(lines)


def escape_prose(text: str) -> str:
    """Return text with the signs of Markdown escaped, but for `code`."""
    pieces = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(
        piece if piece.startswith("`") and len(piece) > 1 else re.sub(r"([\\*_<>\[\]#|$])", r"\\\1", piece)
        for piece in pieces
    )
