"""Create folders for runs and results, with names that no other process takes; list what a run holds."""

import os
import re
from contextlib import suppress
from itertools import count
from pathlib import Path

from ddim.errors import UserError
from ddim.files import LOCK, TEMPORARY, make_folder, publish_folder, read_sealed, write_sealed
from ddim.runs.checkpoint import list_steps

RUN = "run.json"
"""The file that makes a folder a run. It describes the recipe, images, runtime and start of the run."""
CHECKPOINTS = "checkpoints"
"""The name of the folder with the checkpoints of a run, inside the run folder."""
REAL_IMAGES = "samples/real.png"
"""The sheet of real images that a run writes for comparison with its samples."""


# New folders


def make_run_folder(out: Path | None, data: str, recipe: str) -> Path:
    """Create the folder of a new run, and return its path.

    Args:
        out: a new or empty folder; None for ``runs/<data>-<recipe>-<n>``.
        data: name or path of the images; its last part is used.
        recipe: name or path of the recipe; its last part is used.

    Raises:
        UserError: if `out` is not empty.
    """
    if out is not None:
        check_unused(out)
    return make_output_folder(out, "runs", f"{_shorten_name(data)}-{_shorten_name(recipe)}")


def make_output_folder(out: str | Path | None, parent: str, stem: str) -> Path:
    """Create the folder `out`, which may exist, or ``parent/<stem>-<n>`` if it is None; return its path."""
    if out is None:
        return make_numbered_folder(Path(parent), f"{stem}-")
    make_folder(Path(out))
    return Path(out)


def make_numbered_folder(parent: Path, stem: str = "") -> Path:
    """Create a new folder ``parent/<stem><n>``, with n above all others, and return its path.

    No two processes get the same folder.
    """
    make_folder(parent)
    numbered = list_numbered_folders(parent, stem)
    for n in count(int(numbered[-1].name.removeprefix(stem)) + 1 if numbered else 1):
        with suppress(FileExistsError):
            (parent / f"{stem}{n}").mkdir()
            break
    return parent / f"{stem}{n}"


def publish_output(filled: Path, out: Path | None, parent: Path, stem: str = "") -> Path:
    """Rename a filled folder to `out`, or as `make_numbered_folder` does if it is None; return its path."""
    out = make_numbered_folder(parent, stem) if out is None else out
    publish_folder(filled, out.resolve())
    return out


def parse_out(out: str | Path | None) -> Path | None:
    """Return the path of the output folder that a user gives; None if none is given."""
    return None if out is None else Path(out)


def check_unused(out: Path, more: str = "", *, with_folders: bool = False) -> None:
    """Check that `out` is an empty folder or a new one; `with_folders`, it may hold other folders.

    Raises:
        UserError: if it is not. The message ends with `more`, another suggestion.
    """
    if out.exists() and not (out.is_dir() and is_unused(out, with_folders=with_folders)):
        raise UserError(f"{out} is not a new or empty folder; give a new or empty folder{more}")


def is_unused(folder: Path, *, with_folders: bool = False) -> bool:
    """Return whether a folder is empty, apart from what a killed process has left there, and from folders."""
    others = (path for path in folder.iterdir() if not (with_folders and path.is_dir()))
    return all(path.name == LOCK or path.name.startswith(TEMPORARY) for path in others)


def check_outside(out: Path, source: str) -> None:
    """Check that the file or folder `out` does not lie in `source`, a folder of images.

    Raises:
        UserError: if it does; the results would be read as images.
    """
    folder = Path(os.path.expanduser(source))
    if folder.is_dir() and folder.resolve() in out.resolve().parents:
        raise UserError(f"{out} would lie in {source}, the folder of the images, and be read as images")


def _shorten_name(name: str) -> str:
    last = os.path.basename(os.path.abspath(name))
    last = re.sub(r"\.(zip|tar|tgz|txz|tar\.gz|tar\.xz|yaml|yml|json)$", "", last, flags=re.IGNORECASE)
    # A file name has at most 255 bytes, and a letter at most 4.
    return re.sub(r"[^\w.-]+", "-", last)[:50].strip("-.") or "images"


# What a run holds


def list_newest_runs() -> list[Path]:
    """Return the folders of the runs in runs/, the newest first."""
    files = sorted(Path("runs").glob(f"*/{RUN}"), key=os.path.getmtime, reverse=True)
    return [file.parent for file in files]


def name_newest_runs() -> str:
    """Return the three newest runs in runs/ in words."""
    return ", ".join(map(str, list_newest_runs()[:3])) or "there is none"


def record_in_run(folder: Path, **facts: object) -> None:
    """Add facts to the run.json of a run folder; facts of the same names are replaced."""
    write_sealed(folder / RUN, {**read_sealed(folder / RUN), **facts})


def list_checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Return the training step and the path of each checkpoint of a run, sorted by step."""
    return list_steps(run / CHECKPOINTS)


def sheet_path(run: Path, step: int) -> Path:
    """Return the path of the sheet of samples of a run at a training step."""
    return run / "samples" / f"step-{step:09d}.png"


def list_sheets(run: Path) -> list[tuple[int, Path]]:
    """Return the training step and the path of each sheet of samples of a run, sorted by step."""
    return list_steps(run / "samples", ".png")


def list_numbered_folders(parent: Path, stem: str = "") -> list[Path]:
    """Return the folders in `parent` that `make_numbered_folder` named with `stem`, by ascending number."""
    numbered = [path for path in parent.glob("*") if re.fullmatch(rf"{re.escape(stem)}\d+", path.name)]
    return sorted(numbered, key=lambda path: int(path.name.removeprefix(stem)))
