"""Paths that name a run: its folder, RUN/best, or one of its checkpoints."""

from __future__ import annotations

import shlex
from pathlib import Path

from ddim.errors import UserError
from ddim.files import read_json
from ddim.runs import checkpoint
from ddim.runs.folder import RUN

BEST = "best"
"""The last part of the path RUN/best. No such folder exists: the path means the best checkpoint of a run."""


def names_best(run: str | Path) -> bool:
    """Return whether a path is RUN/best for a run folder RUN, even if the run has no best checkpoint yet."""
    run = Path(run)
    return run.name == BEST and not run.exists() and (run.parent / "checkpoints").is_dir()


def find_best_checkpoint(run: str | Path) -> Path | None:
    """Return the best checkpoint of a run for the path RUN/best, and None for any other path.

    Raises:
        UserError: if the run has no best checkpoint yet.
    """
    run = Path(run)
    if not names_best(run):
        return None
    found = checkpoint.find_best(run.parent / "checkpoints")
    if found is None:
        raise UserError(f"run {run.parent} has no best checkpoint: it has not measured report.best yet")
    return found


def find_checkpoint(run: str | Path) -> Path:
    """Return the folder of the checkpoint that a path names.

    Args:
        run: a run folder, for its newest undamaged checkpoint; RUN/best; or a checkpoint folder.

    Raises:
        UserError: if there is no such checkpoint, or the checkpoint folder is damaged.
    """
    run = Path(run)
    if found := find_best_checkpoint(run):
        return found
    if not run.is_dir():
        near = Path("runs") / run
        create = "`ddim train` creates runs, in runs/ or in the folder of --out"
        hint = f"perhaps you meant {near}" if (near / RUN).is_file() else create
        raise UserError(f"run {run} is not a folder; {hint}")
    if (run / checkpoint.MANIFEST).is_file():
        checkpoint.verify(run)
        return run
    found = checkpoint.find_newest(run / "checkpoints")
    if found is None and not any((run / name).exists() for name in (RUN, "checkpoints")):
        raise UserError(
            f"{run} is not a run: it holds neither run.json nor checkpoints; "
            f"`ddim runs {shlex.quote(str(run))}` lists the runs below it"
        )
    if found is None:
        if read_json(run / RUN).get("checkpointed"):
            raise UserError(f"the checkpoints of run {run} are gone: put them back into {run}/checkpoints")
        raise UserError(f"run {run} holds no checkpoint yet")
    return found
