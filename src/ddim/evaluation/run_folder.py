"""Open the run to whose folder results are added."""

from __future__ import annotations

from pathlib import Path

from ddim.errors import UserError
from ddim.runs.checkpoint import MANIFEST
from ddim.runs.pipeline import LoadedRun, load
from ddim.runs.run_path import names_best


def open_run_folder(run: str | Path | LoadedRun) -> LoadedRun:
    """Return the run, loaded if a path is given, after checking that results can be added to its folder.

    Raises:
        UserError: if it is not a run folder but one of its checkpoints.
    """
    folder = run.checkpoint.run if isinstance(run, LoadedRun) else Path(run)
    if (folder / MANIFEST).is_file() or names_best(folder):
        raise UserError(f"{folder} is a checkpoint, and results are added to a run: give the run folder")
    return run if isinstance(run, LoadedRun) else load(folder)
