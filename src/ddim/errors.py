"""Errors of this package, each with its exit code on the command line, and checks that raise them.

This module does not import torch.
"""

import difflib
import errno
import math
import os
import shlex
import sys
import warnings
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from itertools import islice
from operator import index
from pathlib import Path
from typing import Literal, SupportsFloat, get_args, get_origin, get_type_hints

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of the operating system for a full disk, a full quota and a file that became too large."""

LARGEST_EXCESS = 1e-3
"""How far pixels may lie outside [0, 1].

This distance is less than half of an 8-bit level (1/510), so such pixels round to 0 or 255.
"""
_LONGEST, _MOST = 200, 2000  # letters and number of the words among which `suggest` looks


class UserError(ValueError):
    """Raised if the user's input cannot be used.

    The message says in one sentence what is wrong, what was given and what to do. The command line prints the
    message without a traceback and exits with code 2.
    """

    exit_code = 2


class FolderLocked(UserError):  # noqa: N818 (the name says what has happened)
    """Another process is training in a run folder or writing into an output folder."""

    exit_code = 4

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"another process is writing into {folder}: wait until it ends, or choose another folder"
        )


class NotFinite(RuntimeError):  # noqa: N818
    """Training stopped, or an average was not saved, because numbers are not finite.

    The loss or its gradient was not finite several times in a row, or a tensor to be saved is not finite.
    """

    exit_code = 1


class NoSpace(OSError):  # noqa: N818
    """The disk or the quota is full; what was written before, such as checkpoints, is untouched."""

    exit_code = 3


class Interrupted(Exception):  # noqa: N818
    """A signal, such as Ctrl-C, stopped the training in `folder`; a checkpoint was saved first.

    The exit code is 128 plus the signal's number, as shells report it. `own` is the end of the command that
    continues: the options for files with components that the user wrote, such as " --own mine.py".
    """

    def __init__(self, signal_number: int, folder: Path, own: str = "") -> None:
        command = f"ddim train --resume --out {quote(folder)}{own}"
        super().__init__(f"stopped and saved; continue with `{command}`")
        self.signal_number, self.folder = signal_number, folder
        self.exit_code = 128 + signal_number


class OtherProcessFailed(RuntimeError):  # noqa: N818 (an event, not a mistake of this process)
    """Another process of the command failed first, so this process ends too.

    The command line prints no message for it, because the other process prints the reason. The exit code is
    the exit code of the other process.
    """

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class ProcessGone(RuntimeError):  # noqa: N818 (the name says what has happened)
    """Another process of the command is gone: it was killed, or the memory of its machine was full."""

    exit_code = 1


SMALLER = "use a smaller --size or --optim.batch, a narrower network, --optim.accumulate 4, or --recompute"
"""What a user can do if a training does not fit into the memory."""


class SamplesNotFinite(UserError):  # noqa: N818
    """A sample is NaN."""


class OutOfMemory(RuntimeError):  # noqa: N818
    """The memory of the machine or of a GPU is full."""

    exit_code = 1

    def __init__(self) -> None:
        super().__init__(f"the memory is full: end other programs; for a training, {SMALLER}")


def is_full_disk(error: BaseException) -> bool:
    """Return whether the reason of an error is a full disk or quota, or a file that became too large."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL_DISK
    # Other libraries, such as torch with its compiler and safetensors, name the reason only in their message.
    return isinstance(error, NoSpace) or any(os.strerror(code) in str(error) for code in FULL_DISK)


def is_full_memory(error: BaseException) -> bool:
    """Return whether the reason of an error is that the memory, of the machine or of a GPU, is full."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # torch.OutOfMemoryError is known by its name, because this module does not import torch. For the memory
    # of the machine, torch raises a RuntimeError, which names the reason only in its message.
    named = type(error).__name__ == "OutOfMemoryError"
    said = isinstance(error, RuntimeError) and any(sign in str(error) for sign in _MEMORY_SIGNS)
    return isinstance(error, MemoryError | OutOfMemory) or named or said


_MEMORY_SIGNS = ("DefaultCPUAllocator", "not enough memory", "out of memory", "std::bad_alloc")


def explain_error(error: BaseException) -> BaseException:
    """Return a clear error if the memory or disk is full or a file cannot be used, else the error itself."""
    if is_full_memory(error):
        return OutOfMemory()
    if isinstance(error, OSError):
        return explain_os_error(error)
    if is_full_disk(error):
        said = " ".join(str(error).split())
        return NoSpace(f"the disk is full: make room, then repeat the command ({said})")
    return error


def explain_os_error(error: OSError, what: str = "", advice: str = "") -> UserError | NoSpace:
    """Return the error that users see if the system refuses a file or folder.

    Every `OSError` reaches users in this form: `NoSpace` if the disk or the quota is full, else `UserError`.

    Args:
        error: the error of the system.
        what: the start of the message, a clause that says what cannot be done. By default, this clause says
            that the path in `error` cannot be used.
        advice: what to do.
    """
    if isinstance(error, NoSpace):
        return error
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    path = error.filename2 or error.filename
    if not what and path is not None:
        what = f"{os.fsdecode(path)} cannot be used"
    full = error.errno in FULL_DISK
    advice = advice or ("make room, then repeat the command" if full else "")
    sentence = (f"{what} ({reason})" if what else reason) + (f": {advice}" if advice else "")
    return NoSpace(sentence) if full else UserError(sentence)


class Notice(UserWarning):
    """A sentence for users about something that this package did, such as skipping a damaged file."""


def warn_user(text: str) -> None:
    """Warn with a sentence; the warning names the line outside of this package that led to it."""
    package, level, frame = os.path.dirname(__file__) + os.sep, 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, Notice, stacklevel=level)


def check_positive(owner: str, **values: float) -> None:
    """Check that every value is above 0.

    Args:
        owner: the part of the recipe to which the values belong; the message names the field OWNER.NAME.
        values: the values, keyed by field name.

    Raises:
        UserError: if a value is 0, negative, NaN or no number.
    """
    for name, value in values.items():
        if not to_float(f"{owner}.{name}", value) > 0:
            raise UserError(f"{owner}.{name} must be above 0, got {value}")


def to_float(name: str, value: object) -> float:
    """Return a number as a `float`; `name` is its name in the message.

    Raises:
        UserError: if the value is a text, a truth value, None, an array of several numbers or another object.
    """
    if not isinstance(value, SupportsFloat) or isinstance(value, bool) or getattr(value, "shape", ()):
        raise UserError(f"{name} must be a number, got {describe_given(value)}")
    return float(value)


def check_part_values(owner: str, part: object) -> None:
    """Check those fields of a part of a recipe, a dataclass, whose type is `int`, `float` or a `Literal`.

    Raises:
        UserError: if such a field holds no number, or none of the values of the `Literal`; the message names
            the field OWNER.NAME.
    """
    for name, kind in _list_types(type(part)).items():
        path, value, allowed = f"{owner}.{name}", getattr(part, name), get_args(kind)
        if kind in (int, float):
            to_float(path, value)
        elif get_origin(kind) is Literal and value not in allowed:
            hint = suggest(str(value), allowed)
            raise UserError(f"{path} must be one of {', '.join(allowed)}, got {value!r}{hint}")


@cache
def _list_types(kind: type) -> dict[str, object]:
    """Return the types of the fields of a part, without those that a subclass of the user adds."""
    # The types in a class of the user may have names that cannot be found here.
    own = next(base for base in kind.__mro__ if base.__module__.startswith("ddim."))
    return get_type_hints(own)


def to_int(name: str, value: object, hint: str = "") -> int:
    """Return a whole number, also of NumPy or torch, as an `int`; `name` and `hint` are for the message.

    Raises:
        UserError: if `value` is not one whole number.
    """
    with suppress(TypeError):
        if not isinstance(value, bool):
            return index(value)  # pyrefly: ignore[bad-argument-type]
    raise UserError(f"{name} must be a whole number, got {value!r}{hint}")


def check_count(name: str, value: int, least: int = 1) -> None:
    """Check that a number of steps, noise levels or images is allowed, before memory is allocated for them.

    Args:
        name: the name of the number in the message.
        value: the number; a value above a million would fill the memory, and is treated as a typing error.
        least: the smallest value that is allowed.

    Raises:
        UserError: if `value` is not a whole number, is below `least`, or is above a million.
    """
    if not least <= to_int(name, value) <= 10**6:
        raise UserError(f"{name} must be at least {least} and at most 1,000,000, got {value}")


def check_pixels(kind: str, low: float, high: float, what: str = "images", where: str = "") -> None:
    """Check that pixel values of another type than uint8 are floats in [0, 1].

    Args:
        kind: the type of the values, such as "float32"; only float types are accepted.
        low: the smallest value; it may lie below 0 by `LARGEST_EXCESS`.
        high: the largest value; it may lie above 1 by `LARGEST_EXCESS`.
        what: the subject of the message.
        where: the place of the values in the message, such as " in image 3".

    Raises:
        UserError: if the values are not floats in [0, 1]; the message says how to convert them.
    """
    floats = "float" in kind
    if floats and low >= -LARGEST_EXCESS and high <= 1 + LARGEST_EXCESS:
        return
    hint = ": convert them to uint8" if kind.removeprefix("u").startswith("int") else ""
    if floats and math.isfinite(low) and math.isfinite(high):
        hint = ": divide them by 255" if low >= 0 and high <= 255 else ": (x + 1) / 2 maps [-1, 1] to [0, 1]"
        # Bicubic resizing can overshoot [0, 1] this far. Such values only need a clamp.
        hint = ": clamp them, images.clamp(0, 1)" if low > -0.3 and high < 1.3 else hint
    raise UserError(
        f"{what} must be uint8 or floats in [0, 1], got {kind} from {low:.5g} to {high:.5g}{where}{hint}"
    )


def describe_given(value: object) -> str:
    """Return a short description of a value that was given, such as "a tensor (200, 3, 32, 32)".

    Texts, paths and numbers are returned as Python writes them.
    """
    if value is None or isinstance(value, str | Path | int | float):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = type(value).__name__
    if (shape := getattr(value, "shape", None)) is not None and kind in ("Tensor", "ndarray"):
        return f"{'a tensor' if kind == 'Tensor' else 'an array'} {tuple(shape)}"
    return f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"


def format_count(number: int, noun: str) -> str:
    """Return a number with its noun, "1 image" or "2,000 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def join_words(words: Iterable[object]) -> str:
    """Return words as in a sentence, such as "a, b and c"."""
    *most, last = map(str, words)
    return f"{', '.join(most)} and {last}" if most else last


def escape(text: str, kept: str = "") -> str:
    r"""Return the text with its characters that are not printable written as escapes, such as \x1b.

    The result cannot control a terminal. Names in files and archives can contain sequences that move the
    cursor, hide text or add lines.

    Args:
        text: the text.
        kept: characters that stay as they are although they are not printable, such as line breaks.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


def quote(*words: object) -> str:
    """Return words as a command for the user's shell: cmd.exe on Windows, else a POSIX shell."""
    if os.name == "nt":
        from subprocess import list2cmdline

        return list2cmdline(map(str, words))
    return shlex.join(map(str, words))


def suggest(word: str, possible: Iterable[str], likeness: float = 0.6) -> str:
    """Return "; perhaps you meant WORD" for the end of an error message, or "" if no word is similar.

    Args:
        word: the unknown word.
        possible: the words that are allowed; the most similar word is suggested.
        likeness: the smallest similarity of a suggestion, in [0, 1], by `difflib`.
    """
    # The time to compare words grows with the square of their length, and a file can have many long words.
    near = islice((other for other in possible if len(other) <= _LONGEST), _MOST)
    found = difflib.get_close_matches(word[:_LONGEST], list(near), 1, likeness)
    return f"; perhaps you meant {found[0]}" if found else ""
