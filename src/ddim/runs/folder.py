"""Create folders for runs and results, with names that no other process takes."""

import errno
import os
import re
from pathlib import Path

from ddim.errors import UserError, describe_given, explain_error
from ddim.files import LOCK, TEMPORARY, make_folder, publish_folder, read_sealed, sync_folder, write_sealed
from ddim.runs.manifest import parse_step

RUN = "run.json"
"""The file that makes a folder a run. It describes the recipe, images, runtime and start of the run."""
CHECKPOINTS = "checkpoints"
"""The name of the folder with the checkpoints of a run, inside the run folder."""
REAL_IMAGES = "samples/real.png"
"""The sheet of real images that a run writes for comparison with its samples."""


def make_run_folder(out: Path | None, data: str, recipe: str) -> Path:
    """Create the folder of a new run, and return its path.

    Args:
        out: a new or empty folder; None for ``runs/<data>-<recipe>-<n>`` with the next free number n.
        data: name or path of the images; its last part is used.
        recipe: name or path of the recipe; its last part is used.

    Raises:
        UserError: if `out` is not empty or cannot be created.
    """
    if out is not None:
        check_unused(out)
    return make_output_folder(out, "runs", f"{_word(data)}-{_word(recipe)}", least=False)


def list_checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Return the training step and the path of each checkpoint of a run, sorted by step.

    A checkpoint that is about to replace another one may be unfinished, so it is left out.
    """
    places = ((parse_step(path.name), path) for path in (run / CHECKPOINTS).glob("step-*"))
    return sorted((place[0], path) for place, path in places if place and not place[1])


def sheet_path(run: Path, step: int) -> Path:
    """Return the path of the sheet of samples of a run at a training step."""
    return run / "samples" / f"step-{step:09d}.png"


def list_sheets(run: Path) -> list[tuple[int, Path]]:
    """Return the training step and the path of each sheet of samples of a run, sorted by step."""
    files = (run / "samples").glob("step-*.png")
    return sorted((int(file.stem[5:]), file) for file in files if re.fullmatch(r"\d{1,12}", file.stem[5:]))


def record_in_run(folder: Path, **facts: object) -> None:
    """Add facts to the run.json of a run folder; facts of the same names are replaced."""
    write_sealed(folder / RUN, {**read_sealed(folder / RUN), **facts})


def check_unused(out: Path, more: str = "") -> None:
    """Check that `out` is new or an empty folder.

    Raises:
        UserError: if `out` is a file, is not empty or cannot be created. If it is not empty, the message ends
            with `more`, another suggestion.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file, not a folder; give a new or empty folder")
    if out.is_dir() and not is_unused(out):
        raise UserError(f"folder {out} is not empty; give a new or empty folder{more}")
    above = next(path for path in (out, *out.resolve().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        why = "cannot be written to" if above.is_dir() else "is a file"
        raise UserError(f"folder {out} cannot be created: {above} {why}")


def parse_out(out: object) -> Path | None:
    """Return the path of the output folder that a user gives; None if none is given.

    Raises:
        UserError: if `out` is neither a text nor a path.
    """
    if not isinstance(out, str | Path | None):
        raise UserError(f"out must be a new or empty folder, got {describe_given(out)}")
    return None if out is None else Path(out)


def check_publishable(out: Path) -> None:
    """Check that `publish_output` can rename a finished folder to `out`, which may be a link to a folder.

    Raises:
        UserError: if `out` is neither new nor an empty folder, or cannot be created or replaced.
    """
    if not out.name:
        raise UserError(f"the folder to write must have a name, such as {out / 'new'}, got {out}")
    check_unused(out)
    place = out.resolve()
    if not place.is_dir():
        return
    if left := next(place.iterdir(), None):
        raise UserError(f"folder {out} is not empty: it holds {left.name}; give a new or empty folder")
    # A rename cannot replace a mount point. If it replaced the current folder, the shell would not see that.
    if os.path.ismount(place) or place == Path.cwd() or not os.access(place.parent, os.W_OK):
        raise UserError(
            f"folder {out} cannot be replaced by a finished one, because it is a mount point, the current "
            f"folder, or in a folder that cannot be written to: give a new folder, such as {out / 'result'}"
        )


def check_outside(out: Path, source: str) -> None:
    """Check that results do not lie in a folder of images, of which they would become images.

    Args:
        out: the folder or file of the results, which need not exist.
        source: the images; only a folder can contain results.

    Raises:
        UserError: if `out` lies in the folder `source`.
    """
    if Path(source).is_dir() and Path(source).resolve() in out.resolve().parents:
        raise UserError(
            f"{out} would lie in {source}, the folder of the images, and be read as images: give an --out "
            "outside of this folder"
        )


def is_unused(folder: Path) -> bool:
    """Return whether a folder is empty, apart from what a killed process has left there."""
    return all(path.name == LOCK or path.name.startswith(TEMPORARY) for path in folder.iterdir())


def check_name(name: object, file: Path) -> None:
    """Check that a name that was read from a file can become the name of a folder.

    Raises:
        UserError: if the name is not valid, or would lead to another folder.
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]{,199}", name):
        raise UserError(f"{file} is damaged: {name!r:.80} cannot be the name of a folder")


def list_numbered_folders(parent: Path, stem: str = "") -> list[Path]:
    """Return the folders in `parent` that `make_numbered_folder` named with `stem`, by ascending number."""
    numbers = {path: path.name.removeprefix(stem) for path in parent.glob("*") if path.name.startswith(stem)}
    found = [path for path, number in numbers.items() if number.isdecimal()]
    return sorted(found, key=lambda path: int(numbers[path]))


def find_newest_folder(parent: Path) -> Path | None:
    """Return the folder in `parent` with the highest number, or None; see `list_numbered_folders`."""
    return next(reversed(list_numbered_folders(parent)), None)


def make_numbered_folder(
    parent: Path, stem: str = "", filled: Path | None = None, *, least: bool = False
) -> Path:
    """Create a new folder ``parent/<stem><n>``, and return its path; no two processes get the same folder.

    Args:
        parent: the parent folder, which is created if it is missing.
        stem: the beginning of the name.
        filled: a folder on the same drive that is renamed to the new name; None creates an empty folder.
        least: whether n is the smallest free number, instead of the largest number plus one.
    """
    make_folder(parent)
    ends = [path.name.removeprefix(stem) for path in parent.iterdir() if path.name.startswith(stem)]
    n = 1 if least else max((int(end) for end in ends if end.isdecimal()), default=0) + 1
    while not _take(parent / f"{stem}{n}", filled):
        n += 1
    sync_folder(parent)
    return parent / f"{stem}{n}"


def publish_output(
    filled: Path, out: Path | None, parent: Path, stem: str = "", *, least: bool = False
) -> Path:
    """Rename a filled folder to `out`, by default as `make_numbered_folder` does, and return its new path.

    If `out` is a link, the folder that it leads to is replaced; see `check_publishable`.
    """
    if out is None:
        return make_numbered_folder(parent, stem, filled, least=least)
    publish_folder(filled, out.resolve())
    return out


def make_output_folder(out: Path | None, parent: str, stem: str, *, least: bool = True) -> Path:
    """Create an output folder and return its path.

    Args:
        out: the folder, which may exist; None for a new folder ``parent/<stem>-<n>``.
        parent: the parent of the new folder.
        stem: the beginning of its name.
        least: see `make_numbered_folder`.

    Raises:
        UserError: if the folder cannot be created.
        NoSpace: if the disk is full.
    """
    try:
        if out is None:
            return make_numbered_folder(Path(parent), f"{stem}-", least=least)
        make_folder(out)
    except OSError as error:
        # The system may report which part of the path is at fault.
        where = error.filename or out or parent
        raise explain_error(error, f"folder {where} cannot be created") from None
    return out


def _take(folder: Path, filled: Path | None) -> bool:
    """Create `folder`, or rename `filled` to it; return False if `folder` exists already."""
    # Existence is checked first, because a rename would silently replace an empty folder.
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
    # A file name has at most 255 bytes, and a letter at most 4.
    return re.sub(r"[^\w.-]+", "-", last)[:50].strip("-.") or "images"


def check_runs(folder: str | Path) -> Path:
    """Return the path of a folder that holds run folders.

    Raises:
        UserError: if it is not a folder.
    """
    if not isinstance(folder, str | os.PathLike) or not Path(folder).is_dir():
        raise UserError(f"{str(folder)!r} is not a folder of runs; `ddim train` creates runs, in runs/")
    return Path(folder)
