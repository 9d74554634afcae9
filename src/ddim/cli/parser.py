"""The parser of a command: argparse, with errors of one sentence."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ddim.cli.parse_error import explain_parse_error


class Parser(argparse.ArgumentParser):
    """An argparse parser that keeps a list of its arguments and prints an error as one sentence."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  (argparse's own options)
        self.arguments: list[argparse.Action] = []
        self.commands: dict[str, Parser] = {}
        super().__init__(*args, **kwargs)
        # From Python 3.14 on, argparse would colour the help, and the terminal would show the escaped codes.
        self.color = False

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:  # noqa: ANN401
        """Add an argument and remember it."""
        self.arguments.append(super().add_argument(*args, **kwargs))
        return self.arguments[-1]

    def add_subparsers(self, **kwargs: Any) -> Any:  # noqa: ANN401
        """Add subcommands and remember them."""
        action: Any = super().add_subparsers(**kwargs)
        self.commands = action.choices
        return action

    @property
    def options(self) -> list[str]:
        """The option strings, such as --steps, including the options of subcommands."""
        own = [option for argument in self.arguments for option in argument.option_strings]
        return [*own, *(option for parser in self.commands.values() for option in parser.options)]

    def error(self, message: str) -> None:  # type: ignore[override]
        """Print the message and where to find help, and exit with code 2."""
        sys.stderr.write(f"ddim: {explain_parse_error(message)}; see `{self.prog} --help`\n")
        raise SystemExit(2)
