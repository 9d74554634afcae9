"""`ddim completion`: print a script that completes commands, options and paths in a shell."""

from __future__ import annotations

import argparse
from typing import Literal

from ddim.cli.commands import COMMANDS, describe_command
from ddim.cli.generate import COMMON
from ddim.cli.signatures import read_signature


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
        parser = commands.add_parser(name, help=describe_command(name))
        for flag in COMMON:
            parser.add_argument(flag, action="store_true")
        for parameter in read_signature(home).parameters if home else ():
            given = [parameter.option] if parameter.place == "option" else [parameter.name]
            choices = [
                str(value) for kind in parameter.types for value in kind.inner if kind.name == "Literal"
            ]
            kind = {"action": "store_true"} if parameter.is_flag else {"choices": choices or None}
            argument = parser.add_argument(*given, **kind)  # type: ignore[arg-type]
            if not choices and not parameter.is_flag:
                argument.complete = shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(whole, shell=shell)
