"""The command line: a command is a file with `add` (its options) and `run` (one public function, printed)."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from importlib import import_module
from pathlib import Path

from ddim import __version__
from ddim.errors import UserError, near

COMMANDS = {
    "train": "train a model on images, and watch its pictures grow",
    "sample": "make pictures with a trained model",
    "evaluate": "measure how good pictures are: KID, FID, precision, recall, density, coverage",
    "compare": "rank evaluations, and say what may not be ranked",
    "memorisation": "see whether a run repeats its training images",
    "diagnose": "see what a run does at each level of noise",
    "search": "find the best levels for a run and a number of steps",
    "sweep": "train many runs that differ in fields of their recipe",
    "runs": "list runs: how far they are, how good",
    "report": "show on one page what came of runs",
    "invert": "turn real images into latents and back",
    "interpolate": "go from one picture to another, through latents",
    "inpaint": "paint a part of an image anew",
    "vary": "make other pictures like an image",
    "ablate": "see what each choice of a sampler is worth to a run",
    "likelihood": "measure bits per dimension of images under a run",
    "plot": "draw schedules, embeddings, diffusion strips and losses",
    "data": "look at images before you train on them",
    "export": "write a run as a pipeline of diffusers",
    "import": "make a run of a pipeline of diffusers",
}

WEIGHTS = "ema (default), raw, or the value of another average of the run, such as 0.99 (ema.more)"
"""What commands say of --weights."""

RUN = "a run folder, one of its checkpoints, or RUN/best for the best that it kept"
"""What commands that only look at a run say of it."""


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one sentence, with exit code 2."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """Print the sentence and where to find help."""
        sys.stderr.write(f"ddim: {message}; see `{self.prog} --help`\n")
        raise SystemExit(2)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 for our mistakes, 2 for the user's, 3 for a full disk."""
    argv = sys.argv[1:] if argv is None else argv
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    if argv in (["--version"], ["-V"]):
        sys.stdout.write(f"ddim {__version__}\n")
        return 0
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_overview())
        return 0
    name = argv[0]
    if name not in COMMANDS:
        possible = ", ".join(COMMANDS)
        sys.stderr.write(f"ddim: {name!r} is not a command, possible are {possible}{near(name, COMMANDS)}\n")
        return 2
    command = import_module(f"ddim.cli.{name}")
    parser = Parser(
        prog=f"ddim {name}",
        description=COMMANDS[name][0].upper() + COMMANDS[name][1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add(parser)
    try:
        words, fields = (
            _fields(argv[1:], parser) if getattr(command, "TAKES_FIELDS", False) else (argv[1:], {})
        )
        options = [option for action in parser._actions for option in action.option_strings]
        # Options may stand between images; argparse cannot do that for commands within commands.
        parse = parser.parse_args if parser._subparsers else parser.parse_intermixed_args
        return command.run(parse(words, argparse.Namespace(fields=fields, options=options)))
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        return _said(error)


def _fields(words: list[str], parser: argparse.ArgumentParser) -> tuple[list[str], dict[str, str]]:
    """What the parser knows, and the fields of a recipe among the words: --optim.lr 3e-4 or --optim.lr=3e-4.

    Taken out before argparse sees them: it would read the value of an option it does not know as DATA.
    """
    known = {option for action in parser._actions for option in action.option_strings}
    rest, fields, following = [], {}, iter(words)
    for word in following:
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name in known or name == "--":
            rest.append(word)
            continue
        field = name[2:].replace("-", "_")
        is_field = field.split(".")[0] in _heads()
        if not is_field and (hint := near(name, known, 0.75)):
            raise UserError(f"{name} is not an option{hint}")
        given = value if equals else next(following, None)
        if given is None or (not equals and given.startswith("--")):
            raise UserError(f"{name} needs a value" if is_field else f"{name} is not an option")
        fields[field] = given
    return rest, fields


def _heads() -> list[str]:
    """The fields of a recipe, without those below them."""
    from dataclasses import fields

    from ddim.runs.recipe import Recipe

    return [f.name for f in fields(Recipe)]


def only(args: argparse.Namespace, command: str, *fields: str) -> None:
    """UserError where a field of a recipe is given that this command has no use for."""
    for name in args.fields:
        if name.split(".")[0] not in fields:
            hint = near(f"--{name}", [*args.options, *(f"--{field}" for field in fields)])
            applies = f"{' and '.join(fields)} {'apply' if len(fields) > 1 else 'applies'}"
            raise UserError(f"--{name} is no option of ddim {command}; of a recipe, only {applies}{hint}")


def run_folder(run: Path) -> None:
    """UserError where something is to be added to a run and its checkpoint is given."""
    from ddim.runs.checkpoint import MANIFEST, names_best

    if (run / MANIFEST).is_file() or names_best(run):
        raise UserError(f"{run} is a checkpoint, to which nothing can be added: give the run folder")


def _said(error: BaseException) -> int:
    """One sentence for an error, and its exit code."""
    if isinstance(error, BrokenPipeError):
        # Whoever read has enough; Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, UserError):
        sys.stderr.write(f"ddim: {error}\n")
        return 2
    # By name: the modules that define them import torch.
    kind, full = type(error).__name__, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    codes = {"Interrupted": 128 + getattr(error, "number", 0), "NoSpace": 3, "NotFinite": 1}
    codes["KeyboardInterrupt"] = 130
    if kind in codes:
        sys.stderr.write(f"ddim: {str(error) or 'interrupted'}\n")
        return codes[kind]
    sys.stderr.write(f"ddim: {kind}: {' '.join(str(error).split())} (--debug shows where)\n")
    return 3 if isinstance(error, OSError) and error.errno in full else 1


def _overview() -> str:
    rows = "\n".join(f"  ddim {name:<13} {text}" for name, text in COMMANDS.items())
    return f"""Train a diffusion model on your own images, sample it in a few steps, and know how good it is.

{rows}

Start with
  ddim train                 flowers drawn by the program itself, 40 minutes
  ddim train photos/         your own images: a folder, a .zip or a .tar
  ddim sample runs/NAME      pictures from a run

Each command explains itself with --help. --version prints {__version__}; --debug shows where an error is.
"""
