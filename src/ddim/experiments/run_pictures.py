"""Pictures of runs for reports: samples of equal seeds, real images, and growth over training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ddim.errors import warn_user
from ddim.experiments.index import Run
from ddim.plots.pictures import SHEET, arrange_images, enlarge, split_sheet
from ddim.runs.folder import REAL_IMAGES, list_sheets

COLUMNS = 8
"""The largest number of images in a strip."""


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
    """Return the first images (h, w, 3) uint8 of a sheet of the run; [] if there is none.

    If the sheet is damaged, a warning says so.
    """
    if not run.recipe or not path.exists():
        return []
    try:
        with Image.open(path) as image:
            cells = split_sheet(np.asarray(image.convert("RGB")), *run.recipe["data"]["size"])
    except (OSError, SyntaxError, ValueError):  # Pillow raises any of these for damaged files
        warn_user(f"{path} is damaged, and is left out")
        return []
    return cells[: min(COLUMNS, run.recipe["report"]["grid"])]


def make_strip(cells: Sequence[np.ndarray]) -> np.ndarray | None:
    """Return images (h, w, 3) uint8 in one row, enlarged; None if there is no image."""
    if not cells:
        return None
    # The factor depends only on the width of an image, so images look equally large in all strips of a page.
    row = arrange_images(np.stack(cells), len(cells))
    return enlarge(row, max(1, SHEET // (COLUMNS * cells[0].shape[1])))
