"""Create and read the folder of a sweep.

``sweep.json`` holds the plan. Workers write the rest: ``trials/<name>/`` is the run folder of a trial,
``recipes/<name>.json`` holds its recipe, ``logs/<name>.txt`` holds the output of its commands, and
``results/<name>.json`` holds its outcome. ``study.db`` is Optuna's storage, if the sweep does not use a
database. A trial runs as a process `ddim train --resume`, so another worker can resume it if its worker dies.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ddim.errors import UserError
from ddim.experiments.sweep.document import SCHEMA, SWEEP, read_plan, write_once
from ddim.experiments.sweep.plan import SweepRequest, Trial, plan_trials, shared_recipe
from ddim.experiments.sweep.storage import (
    check_address,
    check_optuna,
    is_file_address,
    sqlite_address,
    without_password,
)
from ddim.files import LOCK, make_folder, write_json
from ddim.runs.folder import check_outside, is_unused, make_output_folder, make_run_folder, parse_out

_FOLDERS = ("trials", "recipes", "logs", "results")
_STUDY = "study.db"


@dataclass(frozen=True)
class Sweep:
    """A sweep: its folder, the user's request, Optuna's storage and the planned trials.

    Attributes:
        folder: the folder of the sweep.
        request: the user's request.
        storage: address of Optuna's storage without a password; None for the SQLite file in the folder.
        study: name of the study in the storage.
        base: the recipe that all trials share, as JSON.
        trials: the planned trials.
    """

    folder: Path
    request: SweepRequest
    storage: str | None
    study: str
    base: dict[str, Any]
    trials: tuple[Trial, ...]

    @property
    def address(self) -> str:
        """The address of Optuna's storage, without a password."""
        return self.storage or sqlite_address(self.folder / _STUDY)

    def run_folder(self, trial: Trial) -> Path:
        """Return the run folder of a trial."""
        return self.folder / "trials" / trial.name

    def recipe_file(self, trial: Trial) -> Path:
        """Return the file of the recipe that a trial starts from."""
        return self.folder / "recipes" / f"{trial.name}.json"

    def log_file(self, trial: Trial) -> Path:
        """Return the file with the output of a trial's commands."""
        return self.folder / "logs" / f"{trial.name}.txt"

    def outcome_file(self, trial: Trial) -> Path:
        """Return the file of a trial's `Outcome`, which exists once the trial has ended."""
        return self.folder / "results" / f"{trial.name}.json"

    def make_folders(self) -> None:
        """Create the folders that workers write to."""
        for name in _FOLDERS:
            make_folder(self.folder / name)


def begin_sweep(
    request: SweepRequest | None, out: str | Path | None = None, storage: str | None = None
) -> Sweep:
    """Return the sweep in the folder `out`, so that a worker can join it; create the sweep if there is none.

    Args:
        request: the user's request; None joins a sweep with any request.
        out: the folder; None creates a new folder in runs/.
        storage: the address of a database for Optuna's storage. For a new sweep, None means a SQLite file in
            its folder. For an existing sweep, None means its own storage. But if an existing sweep was
            created with the address of a SQLite file, this address must be given again.

    Raises:
        UserError: if Optuna is not installed, the request is invalid, the storage cannot be opened, or the
            folder contains other files, or contains a sweep with another request or storage.
    """
    from ddim.recipe.codec import dump
    from ddim.runs.names import check_no_run

    check_optuna()
    out = parse_out(out)
    if out is None or not (out / SWEEP).exists():
        request = request or SweepRequest()
        if not request.fields and request.repeats == 1:
            raise UserError("a sweep needs a field, such as schedule=[cosine,linear], or --repeats N")
        planned = [asdict(trial) for trial in plan_trials(request)]
        if storage:
            check_address(storage)
        if request.data:
            check_no_run(request.data)
            check_outside(out or Path("runs"), request.data)
        out = _make_folder(out, request)
        document = {
            "schema": SCHEMA,
            "kind": "sweep",
            "request": asdict(request),
            "storage": without_password(storage) if storage else None,
            # The name has a random part, because other sweeps may use the same database.
            "study": f"{out.name}-{uuid.uuid4().hex[:12]}",
            "base": dump(shared_recipe(request)),
            "trials": planned,
        }
        # Another worker may create the file at the same moment; the first file counts.
        with suppress(FileExistsError):
            write_once(out / SWEEP, document)
    sweep = read_sweep(out)
    if request is not None:
        _check_same_request(sweep, request)
    # A folder from other people could name any SQLite file of the user, and tables would be added to it.
    refused = without_password(storage) != sweep.storage if storage else is_file_address(sweep.storage)
    if refused:
        raise UserError(f"sweep {sweep.folder} has its storage at {sweep.address}: give it as --storage")
    return sweep


def read_sweep(folder: str | Path) -> Sweep:
    """Return the sweep in a folder.

    Raises:
        UserError: if the folder has no sweep, its sweep.json is damaged or has another schema, or a place
            that workers write to is a link.
    """
    folder = Path(folder)
    path = folder / SWEEP
    if not path.is_file():
        raise UserError(f"{folder} is not a sweep: it holds no {SWEEP}")
    _refuse_links(folder / name for name in (*_FOLDERS, _STUDY, LOCK))
    document = read_plan(folder)
    if document is None:
        raise UserError(f"{path} was not written by `ddim sweep`: give the folder of a sweep")
    try:
        request = SweepRequest(**document["request"])
        trials = tuple(Trial(**trial) for trial in document["trials"])
        sweep = Sweep(folder, request, document["storage"], document["study"], document["base"], trials)
    # Values of other types raise AttributeError too.
    except (UserError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    _refuse_links(sweep.run_folder(trial) for trial in trials)
    return sweep


def _refuse_links(places: Iterable[Path]) -> None:
    """Refuse links among the places that workers write to.

    In a folder from other people, a link could lead to any file of the user.
    """
    for place in places:
        if place.is_symlink():
            raise UserError(
                f"{place} is a link, and workers write only to the folder of the sweep: remove it"
            )


def write_trial_recipe(sweep: Sweep, trial: Trial) -> None:
    """Write the recipe file of a trial, and replace an existing file.

    The recipe is not read from an existing file, because only the plan is protected by a hash.
    """
    write_json(sweep.recipe_file(trial), trial.recipe)


def _make_folder(out: Path | None, request: SweepRequest) -> Path:
    """Create and return a folder for a new sweep.

    If another worker creates the sweep in the folder `out` at the same moment, return `out`.
    """
    if out is not None and not out.is_file():
        # The folder is created before its content is listed: another worker may create it at the same moment.
        make_output_folder(out, "", "")
        # The file is looked for last: another worker may write it between the two checks.
        if is_unused(out) or (out / SWEEP).exists():
            return out
    return make_run_folder(out, request.data or "blossoms", f"{Path(request.recipe).stem}-sweep")


def _check_same_request(sweep: Sweep, request: SweepRequest) -> None:
    """Check that the sweep has the same request.

    Raises:
        UserError: if the request differs; the message names the first difference.
    """
    known = asdict(sweep.request)
    for name, wanted in asdict(request).items():
        if wanted != known[name]:
            raise UserError(
                f"sweep {sweep.folder} has {name} = {known[name]}, but the request has {name} = {wanted}: "
                "to join this sweep, give only --out; to start a new one, name another folder"
            )
