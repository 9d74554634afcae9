"""Read and check sweep.json, the plan of a sweep. This module imports neither torch nor Optuna."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddim.errors import UserError
from ddim.files import SEAL, read_json, sync_folder, temporary_name, unseal, write_sealed

SWEEP = "sweep.json"
"""The file that marks a folder as a sweep."""
SCHEMA = 1
"""The version of the layout of ``sweep.json``."""


def write_once(path: Path, document: Mapping[str, object]) -> None:
    """Write a sealed document to a file that only one process can create, even if machines share the drive.

    Raises:
        FileExistsError: if the file exists, or another process created it first.
    """
    temporary = temporary_name(path)
    try:
        write_sealed(temporary, document)
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def read_plan(folder: Path) -> dict[str, Any] | None:
    """Return the content of sweep.json in a folder, with checked trials; None if another program wrote it.

    Raises:
        UserError: if the file is damaged or has another schema, or the name of a trial is not a folder name.
    """
    path = folder / SWEEP
    document = read_json(path)
    if not isinstance(document, dict) or (document.get("kind") != "sweep" and SEAL not in document):
        return None
    document = unseal(document, path)
    if document.get("schema") != SCHEMA:
        raise UserError(f"{path} has schema {document.get('schema')}, but this version reads schema {SCHEMA}")
    trials = document.get("trials")
    if not isinstance(trials, list) or not all(isinstance(trial, dict) for trial in trials):
        raise UserError(f"{path} is damaged: its trials are not a list of objects")
    for trial in trials:
        # The name becomes the name of a folder and of files.
        if "/" in str(trial.get("name")) or trial.get("name") in ("", ".", ".."):
            raise UserError(f"{path} is damaged: {trial['name']!r} is not the name of a folder")
        # A search draws the recipe of a trial when a worker starts it.
        if "name" not in trial or not isinstance(trial.get("recipe", ()), dict | None):
            raise UserError(f"{path} is damaged: trial {trial.get('name')} has no name or no recipe")
    return document
