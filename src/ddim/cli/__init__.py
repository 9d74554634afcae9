"""The command line: a table of public functions, and what all commands have in common."""

import os
import signal
import sys
import warnings
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from typing import Any

from ddim import __version__
from ddim.cli.commands import COMMANDS, SHARED
from ddim.cli.generate import call_function, read_arguments
from ddim.cli.output import drop_unread_output, print_json, print_text, say
from ddim.cli.parser import build_parser, write_overview
from ddim.cli.signatures import read_signature
from ddim.errors import Notice, UserError, escape, explain_error, suggest
from ddim.machine.signals import Stopped, stop_on_signals
from ddim.machine.startup import count_launched, keep_freed_memory, read_rank, set_variables

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
        code = _run_words(sys.argv[1:] if argv is None else argv)
        try:
            sys.stdout.flush()
        except OSError as error:
            code = _report(error)
    if argv is None and code > FIRST_SIGNAL:
        # Before a usual exit, Python waits for the threads of torch's compiler. This may take a minute.
        os._exit(code)
    return code


def _run_words(argv: list[str]) -> int:
    """Run a command line: an overview, a list, a help page or a command."""
    words = [word for word in argv if word != "--debug"]
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if words in (["--version"], ["version"]):
        print_text(f"ddim {__version__}")
    elif not words or words[0] in ("-h", "--help"):
        print_text(write_overview())
    elif words[0] in COMMANDS and {"-h", "--help"} & {*words}:
        print_text(build_parser(words[0], read_signature(COMMANDS[words[0]])).format_help())
    else:
        try:
            return _run_command(*words)
        except (Exception, KeyboardInterrupt) as error:
            if "--debug" in argv:
                raise
            return _report(error, as_json="--json" in words and isinstance(error, Exception))
    return 0


def _run_command(name: str, *words: str) -> int:
    """Run a command with its words, in the surroundings of all commands."""
    if name not in COMMANDS:
        raise UserError(f"{name!r} is not a command{suggest(name, COMMANDS)}; `ddim` lists the commands")
    rank = read_rank()
    with stop_on_signals(), keep_freed_memory(), ExitStack() as stack:
        if count_launched() > 1:
            if name not in SHARED:
                raise UserError(f"ddim {name} runs in one process: call it without torchrun")
            from ddim.machine.distributed import join_processes

            stack.enter_context(join_processes())
        nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        if "--quiet" in words or rank:
            stack.enter_context(redirect_stderr(nowhere))
        if rank:
            stack.enter_context(redirect_stdout(nowhere))
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = _show_warning  # pyrefly: ignore[bad-assignment]
        signature = read_signature(COMMANDS[name])
        arguments = read_arguments(name, signature, words)
        if threads := (arguments.given["load"] | arguments.given["machine"]).get("threads"):
            from ddim.machine.runtime import Runtime

            stack.enter_context(Runtime(threads=threads))
        return call_function(signature, arguments)


def _show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:  # noqa: ANN401
    """Print a warning; one of this package is one sentence, without a line of code."""
    if issubclass(category, Notice):
        say(f"ddim: {message}")
    else:
        sys.stderr.write(warnings.formatwarning(message, category, *place[:2]))


def _report(error: BaseException, *, as_json: bool = False) -> int:
    """Print an error as one sentence, also as JSON if `as_json`, and return its exit code."""
    error = Stopped(signal.SIGINT) if type(error) is KeyboardInterrupt else explain_error(error)
    code = getattr(error, "exit_code", None)
    # An error is one line, also if a name in it contains a line break.
    sentence = escape(str(error))
    if code is None:
        message = " ".join(str(error).split())
        sentence, code = f"{type(error).__name__}: {message} (--debug shows the traceback)", 1
    # Process 0 of several also prints the errors of the others.
    if not read_rank():
        say(f"ddim: {sentence}")
        if as_json:
            print_json({"error": sentence, "exit_code": code})
    return code
