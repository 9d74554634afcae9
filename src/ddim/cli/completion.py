"""`ddim completion`: print a script that completes commands, options and paths in a shell."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli import COMMANDS, build_parser
from ddim.cli.output import print_result

_EPILOG = """
examples:
  ddim completion bash > ~/.local/share/bash-completion/completions/ddim
  ddim completion zsh > ~/.zfunc/_ddim        with `fpath=(~/.zfunc $fpath)` before `compinit` in ~/.zshrc
  ddim completion tcsh > ~/.ddim.csh          with `source ~/.ddim.csh` in ~/.tcshrc
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim completion`."""
    parser.usage = "ddim completion {bash,zsh,tcsh}"
    parser.epilog = _EPILOG
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell")


def run(args: argparse.Namespace) -> int:
    """Print the script that completes commands in the given shell."""
    script = write_completion(args.shell)
    print_result(args, {"shell": args.shell, "script": script}, script)
    return 0


def write_completion(shell: str) -> str:
    """Return the script that completes the commands, their options and paths in bash, zsh or tcsh."""
    import shtab

    whole = argparse.ArgumentParser(prog="ddim")
    commands = whole.add_subparsers(dest="command")
    for name, text in COMMANDS.items():
        built = build_parser(name)
        for each in built.commands.values() or [built]:
            for argument in each.arguments:
                if argument.type is Path or not (argument.option_strings or argument.choices):
                    argument.complete = shtab.FILE  # type: ignore[attr-defined]
        commands.add_parser(name, help=text, parents=[built], add_help=False)
    return shtab.complete(whole, shell=shell)
