"""`ddim completion`: print a script that completes commands, options and paths in a shell."""

from __future__ import annotations

import argparse
from typing import Literal

from ddim.cli.commands import COMMANDS, describe_command
from ddim.cli.parser import build_parser
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
        parents = [build_parser(name, read_signature(home))]
        parser = commands.add_parser(name, help=describe_command(name), parents=parents, add_help=False)
        for action in parser._actions:
            if action.nargs != 0 and not action.choices:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(whole, shell=shell)
