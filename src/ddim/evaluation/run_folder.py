"""Load the run that is measured, and create a folder for the results."""

from pathlib import Path
from typing import Any

import numpy as np

from ddim.evaluation.record import RECORD
from ddim.files import temporary_folder, write_sealed
from ddim.plots.pictures import save_png
from ddim.runs.folder import check_unused, parse_out, publish_output
from ddim.runs.names import find_run_folder, is_checkpoint
from ddim.sampling.pipeline import LoadedRun, load_given_run
from ddim.sampling.record import make_record


def write_result(
    kind: str, run: LoadedRun, home: str, out: str | Path | None, facts: dict[str, Any], **images: np.ndarray
) -> tuple[dict[str, Any], Path]:
    """Write record.json and pictures into a new folder, and return the record and the folder.

    The folder gets its name when it is complete, so a command that is stopped leaves no incomplete result.

    Args:
        kind: the type of the result, such as "diagnosis".
        run: the run.
        home: the name of the folder of such results in the run folder, such as "diagnostics".
        out: the folder; None for the next RUN/<home>/N, see `find_home`.
        facts: the content of the record, as JSON.
        images: pictures (H, W, C) uint8, keyed by the names of their files, without .png.
    """
    out, (parent, stem) = parse_out(out), find_home(run.checkpoint.run, home)
    record = make_record(kind, facts, run)
    with temporary_folder((out or parent / home).resolve()) as folder:
        write_sealed(folder / RECORD, record)
        for name, pixels in images.items():
            save_png(folder / f"{name}.png", pixels)
        return record, publish_output(folder, out, parent, stem)


def open_run_folder(run: str | Path | LoadedRun, out: str | Path | None = None) -> LoadedRun:
    """Check that results can be written, and return the loaded run; load it first if `run` is a path.

    Args:
        run: a run folder, or the result of `load`.
        out: a new or empty folder for the results; None for a new folder in the run folder.

    Raises:
        UserError: if `out` is not empty or cannot be made, or `run` cannot be loaded.
    """
    if out is not None:
        check_unused(Path(out))
    return load_given_run(run)


def find_home(run: Path, kind: str) -> tuple[Path, str]:
    """Return the folder for the results of a kind, and the start of their names, before their numbers.

    The results of RUN, RUN/best and a checkpoint of RUN are RUN/<kind>/1, 2, ... Nothing is added to a
    checkpoint that belongs to no run: its results are <kind>/<name>-1, 2, ... in the working folder.
    """
    folder = find_run_folder(run)
    if is_checkpoint(folder):
        return Path(kind), f"{folder.resolve().name}-"
    return folder / kind, ""
