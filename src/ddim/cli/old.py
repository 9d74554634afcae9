"""The commands that still have a module `ddim.cli.NAME` with two functions, `add` and `run`."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from ddim.cli.commands import describe_command
from ddim.cli.guidance import join_lists
from ddim.cli.output import add_output_options
from ddim.cli.own import list_own_files, name_own_parts, take_own
from ddim.cli.parser import Parser
from ddim.errors import UserError, quote, suggest

WEIGHTS = (
    '"ema", "raw" (not averaged), the decay, power or half-life of another EMA that the run tracked, such as '
    "6.94, or an average that `ddim ema` made, such as picked (default: ema)"
)
"""Help of --weights."""

DATA = (
    "a folder, .zip or .tar[.gz|.xz] of images, a .npy, .npz or .parquet file, a built-in data set: "
    "blossoms, flowers, pets, cifar10, or hub:OWNER/NAME[@REVISION], a data set on the Hugging Face Hub"
)
"""Help of DATA."""

RUN = (
    "a run folder, one of its checkpoints, RUN/best (its best checkpoint), RUN/guide (its early checkpoint), "
    "or hub:OWNER/NAME[@REVISION] (a run on the Hugging Face Hub)"
)
"""Help of RUN in commands that only read a run."""

LABEL = 'class name, class index or "all" (default: none; clusters: "natural", as often as in training)'
"""Help of --label."""

PART = '"valid", "train" or "all" (default: valid for the images of the run, all for --data)'
"""End of the help of --part."""

STEPS = "sampling steps (default: the run's, 20 in most recipes)"
"""Help of --steps."""

ZOOM = "factor by which pixels are enlarged in sheets, strips and films (default: to about 800 pixels)"
"""Help of --zoom."""


def run_module(name: str, given: list[str]) -> int:
    """Run a command that has a module, and return its exit code."""
    command, parser = import_module(f"ddim.cli.{name}"), build_parser(name)
    words, fields, own = join_lists(given), {}, []
    if any(word.partition("=")[0] == "--own" for word in words):
        words, own = take_own(words)
    if getattr(command, "TAKES_FIELDS", False):
        words, fields = _split_fields(words, parser.options)
        own += list_own_files(fields)
        fields = name_own_parts(fields)
    _check_quotes(words)
    # Options may stand between positional arguments; argparse cannot do that with subcommands.
    parse = parser.parse_args if parser.commands else parser.parse_intermixed_args
    args = parse(words, argparse.Namespace(fields=fields, options=parser.options, own=own))
    return command.run(args)


def build_parser(name: str) -> Parser:
    """Return the parser of a command, with all its options."""
    parser = Parser(
        prog=f"ddim {name}",
        description=f"{describe_command(name)[0].upper()}{describe_command(name)[1:]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    import_module(f"ddim.cli.{name}").add(parser)
    for each in parser.commands.values() or [parser]:
        add_output_options(each)
    return parser


def _split_fields(words: list[str], options: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return the words for argparse, and the fields of a recipe that words such as --optim.lr 3e-4 set.

    A field may also have the form --optim.lr=3e-4. Fields are taken out of the words, because argparse would
    read the value of an unknown option as a positional argument.
    """
    rest, fields, following = [], {}, iter(words)
    for word in following:
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name in options or name == "--":
            rest.append(word)
            continue
        field = name[2:].replace("-", "_")
        is_field = field.split(".")[0] in _recipe_fields()
        if not is_field and (hint := suggest(name, options, 0.8)):
            raise UserError(f"{name} is not an option{hint}")
        given = value if equals else next(following, None)
        if given is None or (not equals and given.startswith("--")):
            raise UserError(f"{name} needs a value" if is_field else f"{name} is not an option")
        fields[field] = given
    return rest, fields


def _check_quotes(words: list[str]) -> None:
    """Check that the shell has not split a path with spaces into several of these words."""
    for first, word in enumerate(words):
        for end in range(first + 2, min(len(words), first + 8) + 1):
            whole = " ".join(words[first:end])
            if not word.startswith("-") and not Path(word).exists() and Path(whole).exists():
                raise UserError(f"a path with spaces needs quotes: {quote(whole)}")


def _recipe_fields() -> list[str]:
    from dataclasses import fields

    from ddim.recipe.recipe import Recipe

    return [f.name for f in fields(Recipe)]


def check_fields(args: argparse.Namespace, command: str, *allowed: str) -> None:
    """Check that only allowed fields of a recipe are given to a command.

    Args:
        args: the parsed arguments.
        command: the command's name, for the message.
        allowed: the first parts of the allowed fields, such as "sampler".

    Raises:
        UserError: if another field is given.
    """
    for name in args.fields:
        if name.split(".")[0] not in allowed:
            from ddim.recipe.codec import list_paths

            known = [path for path in list_paths() if path.split(".")[0] in allowed]
            inner = [f"; perhaps you meant --{path}" for path in known if path.endswith(f".{name}")]
            hint = inner[0] if inner else suggest(f"--{name}", [*args.options, *(f"--{a}" for a in allowed)])
            fields = f"the recipe fields it takes are {', '.join(allowed)}" if allowed else "it takes none"
            raise UserError(f"--{name} is not an option of ddim {command}; {fields}{hint}")
