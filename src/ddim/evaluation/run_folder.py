"""Load the run that is measured, and create a folder for the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ddim.files import temporary_folder, write_sealed
from ddim.plots.pictures import save_png
from ddim.plots.table import Tabular
from ddim.runs.folder import check_unused, parse_out, publish_output
from ddim.runs.names import find_run_folder, is_checkpoint
from ddim.sampling.pipeline import LoadedRun, load_given_run


@dataclass(frozen=True, repr=False)
class Recorded(Tabular):
    """A result that is kept in a folder; its text is the verdict and the title, without a table.

    Attributes:
        record: the content of record.json in this folder.
        folder: the folder, which may hold pictures too.
    """

    record: Mapping[str, Any]
    folder: Path

    def to_json(self) -> dict[str, Any]:
        """Return the folder, the verdict and the record."""
        return {"folder": self.folder, "verdict": self.verdict, **self.record}

    def _shown_rows(self) -> Sequence[Mapping[str, Any]]:
        return []

    def _picture(self) -> bytes | None:
        return next((path.read_bytes() for path in self.folder.glob("*.png")), None)


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


def write_result(
    run: LoadedRun,
    kind: str,
    out: str | Path | None,
    record: Mapping[str, Any],
    pictures: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Path:
    """Write record.json and pictures into a new folder, and return its path.

    The folder gets its name when it is complete, so a command that is stopped leaves no folder.

    Args:
        run: the run.
        kind: the name of the folder in the run folder, such as "diagnostics".
        out: the folder; None for the next RUN/<kind>/N, see `find_home`.
        record: the content of record.json.
        pictures: images (H, W, C) uint8, keyed by the names of their files.
    """
    out, (home, stem) = parse_out(out), find_home(run.checkpoint.run, kind)
    with temporary_folder((out or home / kind).resolve()) as folder:
        write_sealed(folder / "record.json", record)
        for name, pixels in pictures.items():
            save_png(folder / name, pixels)
        return publish_output(folder, out, home, stem)
