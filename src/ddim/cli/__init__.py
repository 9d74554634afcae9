"""The command line.

Each command is a module with two functions. `add` adds its options; `run` calls one public function and
prints its result.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from types import ModuleType

from ddim import __version__
from ddim.cli.commands import COMMANDS, GROUPS, SHARED, describe_command
from ddim.cli.generate import call_function, read_arguments
from ddim.cli.guidance import join_lists
from ddim.cli.help_page import write_help
from ddim.cli.output import add_output_options, print_json
from ddim.cli.own import list_own_files, name_own_parts, take_own
from ddim.cli.parser import Parser
from ddim.cli.signatures import read_signature
from ddim.cli.streams import drop_unread_output
from ddim.errors import (
    Notice,
    UserError,
    escape,
    explain_error,
    quote,
    suggest,
)
from ddim.machine.signals import Stopped, stop_on_signals
from ddim.machine.startup import count_launched, keep_freed_memory, read_rank, set_variables

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


FIRST_SIGNAL = 128
"""If signal N stops a command, the exit code is 128 + N."""


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    The exit code is 0 for success, 2 for a mistake of the user, and 3 for a full disk. It is 4 if another
    process trains in the run folder or writes into the output folder, and 128 + N after signal N. It is 1 for
    an internal error, a loss that is not finite, a full memory, a lost process, or failed trials of a sweep.

    Without `argv`, the arguments of this process are used. In this case, the process ends after a signal
    without waiting for its threads.
    """
    if argv is None:
        # Only the program `ddim` itself changes environment variables, not a caller that gives `argv`.
        set_variables()
    with drop_unread_output():
        code = _run_command(sys.argv[1:] if argv is None else argv)
        try:
            sys.stdout.flush()
        except OSError as error:
            code = _report(error)
    if argv is None and code > FIRST_SIGNAL:
        # Before a usual exit, Python waits for the threads of torch's compiler. This may take a minute.
        os._exit(code)
    return code


def _run_command(argv: list[str]) -> int:
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    if argv and argv[0] == "help":
        argv = [*argv[1:], "--help"]
    if argv in (["--version"], ["-V"], ["version"]):
        sys.stdout.write(f"ddim {__version__}\n")
        return 0
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_overview())
        return 0
    name = " ".join(argv[:2]) if " ".join(argv[:2]) in COMMANDS else argv[0]
    kinds = [each for each in COMMANDS if each.startswith(f"{name} ")]
    if kinds:
        return _list_kinds(name, kinds, argv[1:])
    if name not in COMMANDS:
        hint = suggest(name, COMMANDS)
        if not hint and Path(name).exists():
            hint = f"; perhaps you meant `ddim train {quote(name)}`"
        sys.stderr.write(f"ddim: {name!r} is not a command{hint}; `ddim` lists the commands\n")
        return 2
    if COMMANDS[name]:
        return _run_generated(name, argv[len(name.split()) :], debug=debug)
    try:
        command, parser = import_module(f"ddim.cli.{name}"), build_parser(name)
        words, fields, own = join_lists(argv[1:]), {}, []
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
        return _call(command, name, args)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        return _report(error)


def _run_generated(name: str, words: list[str], *, debug: bool) -> int:
    """Run a command that is a public function, and return its exit code."""
    signature = read_signature(COMMANDS[name])
    if {"--help", "-h"} & {*words}:
        sys.stdout.write(write_help(name, signature))
        return 0
    try:
        keep_freed_memory()
        with stop_on_signals(), ExitStack() as stack:
            rank = _join(name, stack)
            arguments = read_arguments(signature, words)
            if "--quiet" in words or rank:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect_stderr(nowhere))
                if rank:
                    stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(_plain_warnings())
            if threads := arguments.load.get("threads") or arguments.machine.get("threads"):
                from ddim.machine.runtime import Runtime

                stack.enter_context(Runtime(threads=threads))
            return call_function(signature, arguments)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        code = _report(error)
        if "--json" in words and not read_rank():
            print_json({"error": str(explain_error(error)), "exit_code": code})
        return code


def _join(name: str, stack: ExitStack) -> int:
    """Join the processes of the launcher, if there are several, until the stack is closed; return the rank."""
    if count_launched() > 1:
        if name not in SHARED:
            raise UserError(f"ddim {name} runs in one process: call it without torchrun")
        from ddim.machine.distributed import join_processes

        stack.enter_context(join_processes())
    return read_rank()


def _list_kinds(name: str, kinds: list[str], words: list[str]) -> int:
    """List the commands that begin with a name; the exit code is 2 if there is another word than --help."""
    lines = [f"  ddim {each:<20} {describe_command(each)}" for each in kinds]
    if words and words[0] not in ("--help", "-h"):
        hint = suggest(words[0], [each.split()[1] for each in kinds])
        sys.stderr.write(
            f"ddim: {words[0]!r} is not a kind of `ddim {name}`{hint}; `ddim {name}` lists them\n"
        )
        return 2
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


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


def _call(command: ModuleType, name: str, args: argparse.Namespace) -> int:
    """Run a command with its arguments, and return its exit code."""
    keep_freed_memory()
    rank = read_rank()
    with stop_on_signals(), ExitStack() as stack:
        if count_launched() > 1:
            if name not in SHARED:
                raise UserError(f"ddim {name} runs in one process: call it without torchrun")
            from ddim.machine.distributed import join_processes

            stack.enter_context(join_processes())
        if args.quiet or rank:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect_stderr(nowhere))
            if rank:
                stack.enter_context(redirect_stdout(nowhere))
        stack.enter_context(_plain_warnings())
        if getattr(args, "threads", None) is not None:
            from ddim.machine.runtime import Runtime

            stack.enter_context(Runtime(threads=args.threads))
        return command.run(args)


@contextmanager
def _plain_warnings() -> Generator[None]:
    """Inside the block, show each warning of this package as one sentence, without a line of code."""
    usual = warnings.formatwarning

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if issubclass(category, Notice):
            return f"ddim: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = show
    try:
        yield
    finally:
        warnings.formatwarning = usual


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


def _report(error: BaseException) -> int:
    """Print an error as one sentence and return its exit code."""
    error = explain_error(error)
    if type(error) is KeyboardInterrupt:
        error = Stopped(signal.SIGINT)
    code = getattr(error, "exit_code", None)
    # An error is one line, also if a name in it contains a line break.
    sentence = escape(str(error))
    if code is None:
        message = " ".join(str(error).split())
        sentence = f"{type(error).__name__}: {message} (--debug shows the traceback)"
    # Process 0 of several also prints the errors of the others.
    if not read_rank():
        sys.stderr.write(f"ddim: {sentence}\n")
    return code or 1


def _overview() -> str:
    groups = "\n\n".join(
        "\n".join([heading, *(f"  ddim {name:<13} {describe_command(name)}" for name in group)])
        for heading, group in GROUPS.items()
    )
    return f"""ddim learns from your images, generates new images like them, and measures how good they are.

Start with
  ddim train photos/         learn from a folder, a .zip or a .tar of images, for 40 minutes
  ddim train                 the same with flowers that the program draws itself
  ddim sample runs/NAME      generate new images with the trained run
  ddim evaluate runs/NAME    measure how close they are to real images

{groups}

`ddim COMMAND --help` explains a command. --version prints {__version__}. --debug shows an error's traceback.

Every command takes
  --json           print the whole result, or the error, as one JSON document
  --quiet          print only errors and the result, or the result's folder
  --details        print also notes, intervals and what cannot be compared
  --own FILE.py    load your own components: a schedule, a network, ...
"""
