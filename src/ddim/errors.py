"""Errors of this package with their exit codes, checks that raise them, and words for messages.

This module does not import torch.
"""

import difflib
import errno
import os
import shlex
import subprocess
import sys
import warnings
from collections.abc import Container, Generator, Iterable
from contextlib import contextmanager
from operator import index
from typing import Literal, SupportsFloat, get_args, get_origin, get_type_hints


class UserError(ValueError):
    """The user's input cannot be used; the message says in one sentence what is wrong and what to do.

    The command line prints the message without a traceback and exits with code 2.
    """

    exit_code = 2


class Locked(UserError):  # noqa: N818 (the name says what has happened)
    """Another process is training in a run folder or writing into an output folder."""

    exit_code = 4


class NotFinite(RuntimeError):  # noqa: N818
    """The loss or its gradient was not finite several times in a row, or a tensor to be saved is not."""

    exit_code = 1


class NoSpace(OSError):  # noqa: N818
    """The disk or the quota is full; what was written before, such as checkpoints, is untouched."""

    exit_code = 3


class OutOfMemory(RuntimeError):  # noqa: N818
    """The memory of the machine or of a GPU is full."""

    exit_code = 1


class Interrupted(KeyboardInterrupt):  # noqa: N818
    """A signal, such as Ctrl-C, stopped the training in `folder`; a checkpoint was saved first.

    As with Ctrl-C itself, `except Exception` does not catch it. The exit code is 128 plus the signal's
    number, as shells report it. `own` is the end of the command that continues: the options for files with
    components that the user wrote, such as " --own mine.py".
    """

    def __init__(self, signal_number: int, folder: os.PathLike[str], own: str = "") -> None:
        super().__init__(f"stopped and saved; continue with `ddim train --resume --out {quote(folder)}{own}`")
        self.signal_number, self.exit_code, self.folder = signal_number, 128 + signal_number, folder


class Notice(UserWarning):
    """A sentence for users about something that this package did, such as skipping a damaged file."""


def warn_user(text: str) -> None:
    """Warn with a sentence; the warning names the line outside of this package that led to it."""
    package, level, frame = os.path.dirname(__file__) + os.sep, 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, Notice, stacklevel=level)


# Errors of the system


def is_full_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory, of the machine or of a GPU, is full."""
    # For the memory of the machine, torch raises a RuntimeError, which names the reason only in its message.
    signs = ("DefaultCPUAllocator", "not enough memory", "out of memory", "std::bad_alloc")
    said = isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    return said or isinstance(error, MemoryError | OutOfMemory)


def explain_error(error: BaseException, what: str = "", advice: str = "") -> BaseException:
    """Return the error that users see if the memory or the disk is full, or the system refuses a file.

    Args:
        error: any error.
        what: what cannot be done, by default that the path in `error` cannot be used.
        advice: what to do.

    Returns:
        `OutOfMemory`, `NoSpace` or, for other errors of the system, a `UserError`; else the error itself.
    """
    if is_full_memory(error):
        return OutOfMemory("the memory is full: end other programs, or use a smaller --size or --optim.batch")
    if not isinstance(error, OSError) or isinstance(error, NoSpace):
        return error
    path, full = error.filename2 or error.filename, error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = what or ("" if path is None else f"{os.fsdecode(path)} cannot be used")
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    advice = advice or ("make room, then repeat the command, a training with --resume" if full else "")
    sentence = (f"{what} ({reason})" if what else reason) + (f": {advice}" if advice else "")
    return NoSpace(sentence) if full else UserError(sentence)


@contextmanager
def explain_errors(
    fault: str, advice: str = "", kind: type[Exception] | tuple[type[Exception], ...] = Exception
) -> Generator[None]:
    """Turn the errors in a block into a `UserError`: "FAULT (REASON): ADVICE".

    A `UserError` stays as it is, and so does an error that means that the disk or the memory is full.

    Args:
        fault: the start of the message, such as "flowers cannot be downloaded".
        advice: the end of the message.
        kind: the types of these errors.
    """
    try:
        yield
    except kind as error:
        if isinstance(error, UserError) or isinstance(explain_error(error), NoSpace | OutOfMemory):
            raise
        # Without a connection, huggingface_hub says that a file is not found; the cause says why.
        cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
        # The first lines say what is wrong, the others are about functions of a library.
        lines = [line for line in str(cause or error).split("\n") if line][:2]
        # The number of an error of the system says nothing, and its path only if `fault` does not name it.
        named = str(getattr(error, "filename", None) or "") in fault
        reason = (named and getattr(error, "strerror", None)) or " ".join(lines) or type(error).__name__
        raise UserError(f"{fault} ({reason})" + (f": {advice}" if advice else "")) from error


# Checks of values


def check_part_values(owner: str, part: object, positive: Container[str] = ()) -> None:
    """Check those fields of a part of a recipe, a dataclass, whose type is `int`, `float` or a `Literal`.

    Args:
        owner: the name of the part, for messages.
        part: the part.
        positive: the names of the numbers that must be above 0.

    Raises:
        UserError: if such a field OWNER.NAME holds no number, one that is 0 or less although it must be above
            0, or none of the values of the `Literal`.
    """
    # The types in a class of the user may have names that cannot be found here.
    base = next(base for base in type(part).__mro__ if base.__module__.startswith("ddim."))
    for name, kind in get_type_hints(base).items():
        if kind in (int, float):
            number = to_float(f"{owner}.{name}", getattr(part, name))
            if name in positive and not number > 0:
                raise UserError(f"{owner}.{name} must be above 0, got {number:g}")
        elif get_origin(kind) is Literal:
            check_choice(f"{owner}.{name}", getattr(part, name), get_args(kind))


def check_choice(name: str, value: object, allowed: Iterable[object]) -> None:
    """Check that a value is one of those that are allowed; `name` is its name in the message.

    Raises:
        UserError: if it is another one; the message suggests a similar one.
    """
    if value not in allowed:
        words = [*map(str, allowed)]
        hint = suggest(str(value), words)
        raise UserError(f"{name} must be one of {', '.join(words)}, got {value!r:.100}{hint}")


def check_count(name: str, value: int, least: int = 1) -> None:
    """Check a number of steps, noise levels or images; a number above a million is a typing error.

    Raises:
        UserError: if `value` is not a whole number from `least` to a million.
    """
    if not least <= to_int(name, value) <= 10**6:
        raise UserError(f"{name} must be at least {least} and at most 1,000,000, got {value}")


def check_pixels(kind: str, low: float, high: float, what: str = "images", where: str = "") -> None:
    """Check that pixel values of another type than uint8 are floats in [0, 1].

    Values may be 0.001 outside: this is less than half of an 8-bit level, so they round to 0 or 255.

    Args:
        kind: the type of the values, such as "float32".
        low: the smallest value.
        high: the largest value.
        what: the subject of the message.
        where: the place of the values in the message, such as " in image 3".

    Raises:
        UserError: if they are not; the message says how to convert them.
    """
    if not ("float" in kind and low >= -0.001 and high <= 1.001):  # NaN is outside, too
        values = f"{kind} from {low:.5g} to {high:.5g}{where}"
        advice = "convert them, such as by x / 255, (x + 1) / 2 or x.clamp(0, 1)"
        raise UserError(f"{what} must be uint8 or floats in [0, 1], got {values}: {advice}")


def to_float(name: str, value: object) -> float:
    """Return a number as a `float`; `name` is its name in the message.

    Raises:
        UserError: if the value is a text, a truth value, None, an array of several numbers or another object.
    """
    if not isinstance(value, SupportsFloat) or isinstance(value, bool) or getattr(value, "shape", ()):
        raise UserError(f"{name} must be a number, got {describe_given(value)}")
    return float(value)


def to_int(name: str, value: object, hint: str = "") -> int:
    """Return a whole number, also of NumPy or torch, as an `int`; `name` and `hint` are for the message.

    Raises:
        UserError: if `value` is not one whole number.
    """
    try:
        return index(None if isinstance(value, bool) else value)  # pyrefly: ignore[bad-argument-type]
    except TypeError:
        raise UserError(f"{name} must be a whole number, got {value!r}{hint}") from None


# Words for messages


def describe_given(value: object) -> str:
    """Return a short description of a value: "a tensor (200, 3, 32, 32)", or the start of its `repr`."""
    if not hasattr(value, "shape"):
        return f"{value!r:.100}"
    return f"{'a tensor' if type(value).__name__ == 'Tensor' else 'an array'} {tuple(value.shape)}"


def format_count(number: int, noun: str) -> str:
    """Return a number with its noun, "1 image" or "2,000 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def escape(text: str, kept: str = "") -> str:
    r"""Return the text with characters that are not printable, except those in `kept`, as escapes like \x1b.

    The result cannot control a terminal. Names in files and archives can contain sequences that move the
    cursor, hide text or add lines.
    """
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


def quote(*words: object) -> str:
    """Return words as a command for the user's shell: cmd.exe on Windows, else a POSIX shell."""
    return (subprocess.list2cmdline if os.name == "nt" else shlex.join)([*map(str, words)])


ELSEWHERE = {"euler": "ddim", "heun": "edm", "dpmpp_2m": "dpm_solver", "dpm++": "dpm_solver"}
ELSEWHERE |= {"eps": "noise", "epsilon": "noise", "v": "velocity", "v_prediction": "velocity"}
ELSEWHERE |= {"sample": "image", "x0": "image"}
"""Names of parts of a recipe in other libraries, with their names here."""


def suggest(word: str, possible: Iterable[str]) -> str:
    """Return "; perhaps you meant WORD" for the end of an error message, or "" if no word is similar.

    Case does not count.
    """
    known, word = {name.lower(): name for name in possible}, word.lower()
    other = ELSEWHERE.get(word)
    near = [other] if other in known else difflib.get_close_matches(word, known, 1)
    return f"; perhaps you meant {known[near[0]]}" if near else ""
