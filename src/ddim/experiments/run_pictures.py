"""Pictures of runs for reports: samples of equal seeds, real images, and growth over training."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ddim.experiments.index import Run
from ddim.plots.pictures import GAP, enlarge, split_sheet
from ddim.runs.folder import REAL_IMAGES

COLUMNS = 8
"""The largest number of images in a strip."""
WIDTH = 820
"""The width in pixels up to which the images of a strip are enlarged."""


def last_samples(run: Run) -> np.ndarray | None:
    """Return the first samples of a run's last sheet as a strip, (H, W, 3) uint8, enlarged by a whole factor.

    Returns None if the run has no recipe, or no sheet that can be read.
    """
    files = _sheets(run)
    return make_strip(read_cells(files[-1], run)) if files else None


def real_images(run: Run) -> np.ndarray | None:
    """Return real images of the run's data set as a strip; see `last_samples`."""
    return make_strip(read_cells(run.path / REAL_IMAGES, run))


def growth(run: Run) -> tuple[np.ndarray, list[int]] | None:
    """Return the sample of the first seed over training as a strip, and the steps of its images.

    Returns None if there are fewer than two sheets that can be read.
    """
    files = _sheets(run)
    chosen = np.unique(np.linspace(0, len(files) - 1, COLUMNS).round().astype(int)) if files else []
    found = [(int(files[k].stem[5:]), cells[0]) for k in chosen if (cells := read_cells(files[k], run))]
    strip = make_strip([cell for _, cell in found])
    return None if strip is None or len(found) < 2 else (strip, [step for step, _ in found])


def make_strip(cells: Sequence[np.ndarray]) -> np.ndarray | None:
    """Arrange images (h, w, 3) uint8 in one row and enlarge them; None if there is no image."""
    if not cells:
        return None
    height, width, _ = cells[0].shape
    strip = np.full((height, len(cells) * (width + GAP) - GAP, 3), 255, np.uint8)
    for k, cell in enumerate(cells):
        strip[:, k * (width + GAP) : k * (width + GAP) + width] = cell
    # All strips of a report have images of the same size, whatever their number.
    scale = max(1, WIDTH // (COLUMNS * (width + GAP)))
    return enlarge(strip, scale)


def read_cells(path: Path, run: Run) -> list[np.ndarray]:
    """Return the first images of a sheet that the run wrote, (h, w, 3) uint8; [] if it cannot be read."""
    if not run.recipe:
        return []
    height, width = run.recipe["data"]["size"]
    try:
        with Image.open(path) as image:
            sheet = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError):  # Pillow raises any of these for damaged files
        return []
    return split_sheet(sheet, height, width)[: min(COLUMNS, run.recipe["report"]["grid"])]


def encode_png(pixels: np.ndarray) -> bytes:
    """Return the bytes of a PNG file of an image (H, W, 3) uint8."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", optimize=True)
    return content.getvalue()


def _sheets(run: Run) -> list[Path]:
    """Return the sheets of a run's samples, in the order of their steps."""
    return sorted((run.path / "samples").glob("step-*.png"))
