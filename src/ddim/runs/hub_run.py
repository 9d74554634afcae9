"""Runs on the Hugging Face Hub, named as hub:OWNER/NAME[@REVISION]: download one and return its checkpoint.

A repository is one published checkpoint (see `ddim.runs.published`) with a model card beside it. Only files
of known names are downloaded, and `load` uses them only if all bytes match the manifest of the checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from ddim.data.remote import fetch, names_repository, parse_repository
from ddim.errors import UserError, describe_given
from ddim.runs.manifest import MANIFEST
from ddim.runs.published import PUBLISHED

FILES = (
    MANIFEST,
    "model.safetensors",
    "state.json",
    "recipe.json",
    f"{PUBLISHED}.json",
    "clusters.safetensors",
    "vectors.safetensors",
    "searched.json",
)
"""The files of a published checkpoint."""


def check_run_path(run: object) -> Path:
    """Check that a run is given as a path, and return the path.

    Raises:
        UserError: if `run` is another value, such as a model.
    """
    if not isinstance(run, str | Path):
        raise UserError(f"this needs a run folder, such as runs/photos-fast-1, got {describe_given(run)}")
    return Path(run)


def locate_run(run: str | Path) -> Path:
    """Return the path of a run; a run that is named hub:OWNER/NAME is downloaded first.

    Raises:
        UserError: if `run` is not a path, or the run on the Hub cannot be downloaded or is not published.
    """
    path = check_run_path(run)
    if not names_repository(run):
        return path

    def choose(names: list[str]) -> list[str]:
        if MANIFEST in names:
            return [name for name in FILES if name in names]
        raise UserError(f"{run} is not a run of ddim: it has no {MANIFEST}; `ddim push` uploads runs")

    return fetch(parse_repository(run), "model", choose)


def pin_run(run: Path) -> str:
    """Return a name of a run that stays valid: its absolute path, or hub:OWNER/NAME@COMMIT.

    A run on the Hub is downloaded first, unless the cache has it.

    Raises:
        UserError: if the run on the Hub cannot be downloaded, or is not a published run.
    """
    if not names_repository(run):
        return str(run.resolve())
    return str(parse_repository(run)._replace(revision=locate_run(run).parent.name))
