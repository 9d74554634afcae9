"""Create folders for runs and results; no two processes get the same folder."""

import errno
import os
import re
from pathlib import Path

from ddim.errors import UserError
from ddim.files import make_folder, sync_folder

RUN = "run.json"
"""The file that makes a folder a run: its recipe, images, runtime and start."""


def make_run_folder(out: Path | None, data: str, recipe: str) -> Path:
    """Create the folder of a new run: `out`, or ``runs/<data>-<recipe>-<n>`` with the next n.

    `data` and `recipe` are names or paths, of which the last part is used.

    Raises:
        UserError: if `out` holds anything, or cannot be made a folder; nothing is overwritten.
    """
    if out is not None:
        check_unused(out)
    return make_output_folder(out, "runs", f"{_word(data)}-{_word(recipe)}", least=False)


def check_unused(out: Path, more: str = "") -> None:
    """Check that `out` is new or an empty folder.

    Raises:
        UserError: if `out` is a file or not empty; `more` ends the message with an alternative.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a new or empty folder")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"--out {out} is not empty; give a new or empty folder{more}")


def make_numbered_folder(
    parent: Path, stem: str = "", filled: Path | None = None, *, least: bool = False
) -> Path:
    """Create a new folder ``parent/<stem><n>``; each of two processes gets a folder of its own.

    Args:
        parent: the parent folder, created if it is missing.
        stem: the start of the name.
        filled: a finished folder beside it that takes this name; without it the new folder is empty.
        least: take the least free n, not one more than the largest.
    """
    make_folder(parent)
    ends = [path.name.removeprefix(stem) for path in parent.iterdir() if path.name.startswith(stem)]
    n = 1 if least else max((int(end) for end in ends if end.isdecimal()), default=0) + 1
    while not _take(parent / f"{stem}{n}", filled):
        n += 1
    sync_folder(parent)
    return parent / f"{stem}{n}"


def make_output_folder(out: Path | None, parent: str, stem: str, *, least: bool = True) -> Path:
    """Create `out` if it is missing, or, without `out`, the next folder ``parent/<stem>-<n>``.

    `least` as in `make_numbered_folder`.

    Raises:
        UserError: if it cannot be made a folder.
    """
    try:
        if out is None:
            return make_numbered_folder(Path(parent), f"{stem}-", least=least)
        make_folder(out)
    except OSError as error:
        # The part of the path that caused the error, if the system names it.
        where = error.filename or out or parent
        raise UserError(f"{where} cannot be made a folder: {error.strerror}") from None
    return out


def _take(folder: Path, filled: Path | None) -> bool:
    """Take the name `folder`; return False if another process has it."""
    # A rename would replace an empty folder.
    if folder.exists():
        return False
    try:
        if filled is None:
            folder.mkdir()
        else:
            os.rename(filled, folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    return True


def _word(name: str) -> str:
    last = os.path.basename(os.path.abspath(name))
    last = re.sub(r"\.(zip|tar|tgz|txz|tar\.gz|tar\.xz|yaml|yml|json)$", "", last, flags=re.IGNORECASE)
    return re.sub(r"[^\w.-]+", "-", last).strip("-.") or "images"
