"""Pictures of runs for reports: samples of equal seeds, real images, and growth over training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ddim.experiments.index import Run
from ddim.plots.pictures import COLUMNS, make_strip, read_sheet
from ddim.runs.folder import REAL_IMAGES, list_sheets


def last_samples(run: Run) -> np.ndarray | None:
    """Return the first samples of a run's last sheet as an enlarged strip, (H, W, 3) uint8.

    Return None if the run has no recipe or no sheet, or if its last sheet cannot be read.
    """
    sheets = list_sheets(run.path)
    return make_strip(read_cells(sheets[-1][1], run)) if sheets else None


def real_images(run: Run) -> np.ndarray | None:
    """Return real images of the run's data set as a strip; see `last_samples`."""
    return make_strip(read_cells(run.path / REAL_IMAGES, run))


def growth(run: Run) -> tuple[np.ndarray, list[int]] | None:
    """Return a strip of samples of the first seed at several training steps, and the list of these steps.

    Return None if there are fewer than two sheets that can be read.
    """
    sheets = list_sheets(run.path)
    chosen = np.unique(np.linspace(0, len(sheets) - 1, COLUMNS).round().astype(int)) if sheets else []
    found = [(sheets[k][0], cells[0]) for k in chosen if (cells := read_cells(sheets[k][1], run))]
    strip = make_strip([cell for _, cell in found])
    return None if strip is None or len(found) < 2 else (strip, [step for step, _ in found])


def read_cells(path: Path, run: Run) -> list[np.ndarray]:
    """Return the first images (h, w, 3) uint8 of a sheet of the run; [] if the sheet cannot be read."""
    if not run.recipe:
        return []
    height, width = run.recipe["data"]["size"]
    return read_sheet(path, height, width)[: min(COLUMNS, run.recipe["report"]["grid"])]
