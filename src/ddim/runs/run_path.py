"""Paths that name a run: its folder, RUN/best, or one of its checkpoints."""

from __future__ import annotations

from pathlib import Path

from ddim.errors import UserError
from ddim.runs import checkpoint
from ddim.runs.folder import RUN

BEST = "best"
"""The name in RUN/best, which is not a folder: it stands for the best checkpoint of the run."""


def names_best(run: str | Path) -> bool:
    """Return whether a path is RUN/best of a run folder, even if the run has no best checkpoint."""
    run = Path(run)
    return run.name == BEST and not run.exists() and (run.parent / "checkpoints").is_dir()


def find_best_checkpoint(run: str | Path) -> Path | None:
    """Return the checkpoint that RUN/best stands for, and None for any other path.

    Raises:
        UserError: if the run has no best checkpoint.
    """
    run = Path(run)
    if not names_best(run):
        return None
    found = checkpoint.find_best(run.parent / "checkpoints")
    if found is None:
        raise UserError(f"run {run.parent} has no best checkpoint: it has measured nothing yet (report.best)")
    return found


def find_checkpoint(run: str | Path) -> Path:
    """Return the newest whole checkpoint of a run, the best of RUN/best, or a checkpoint folder itself.

    Raises:
        UserError: if there is no checkpoint.
    """
    run = Path(run)
    if found := find_best_checkpoint(run):
        return found
    if not run.is_dir():
        raise UserError(
            f"run {run} is not a folder; `ddim train` makes runs, under runs/ unless --out says where"
        )
    if (run / checkpoint.MANIFEST).is_file():
        checkpoint.verify(run)
        return run
    found = checkpoint.find_newest(run / "checkpoints")
    if found is None and not any((run / name).exists() for name in (RUN, "checkpoints")):
        raise UserError(
            f"{run} is no run, for it holds neither run.json nor checkpoints; "
            f"`ddim runs {run}` lists those below it"
        )
    if found is None:
        raise UserError(f"run {run} holds no checkpoint yet")
    return found
