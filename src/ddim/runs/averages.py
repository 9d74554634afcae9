"""Store and find averages of a run's weights. They are kept beside its checkpoints, in RUN/averages.

``snapshots/step-000000123/`` holds the averages of two powers after this step (see
`ddim.nn.power_averages`), as ``<power>.safetensors``. Training writes these folders. Any other folder, such
as ``width-0.05/``, holds an average that `ddim.reconstruct_average` or `ddim.pick_average` stored, in the
files ``average.safetensors`` and ``average.json``. Like a checkpoint, each folder has a manifest with the
SHA-256 of its files. Even after a crash, each folder is complete or absent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.errors import UserError, explain_error, quote, warn_user
from ddim.files import temporary_folder
from ddim.nn.power_averages import track_averages
from ddim.recipe.recipe import Recipe
from ddim.runs import checkpoint
from ddim.runs.folder import CHECKPOINTS
from ddim.runs.manifest import (
    Damaged,
    pack_tensors,
    parse_step,
    read_document,
    read_manifest,
    render_json,
    verify,
    write_parts,
)
from ddim.runs.replacing import FRESH, remove_folder, replace_folder, settle_folder
from ddim.runs.run_path import BEST, GUIDE, describe_missing_step, find_run_folder

if TYPE_CHECKING:
    from torch import Tensor

FOLDER, SNAPSHOTS, AVERAGE = "averages", "snapshots", "average"


@dataclass(frozen=True)
class Snapshot:
    """An undamaged snapshot: its folder, its step, and the powers of its averages."""

    path: Path
    step: int
    gammas: tuple[float, ...]

    @property
    def size(self) -> int:
        """The size of the snapshot in bytes."""
        return sum(entry["size"] for entry in read_manifest(self.path).files.values())


@dataclass(frozen=True)
class StoredAverage:
    """An average that was reconstructed and stored under a name.

    Attributes:
        width: the relative width of the average; None for a default average that is not a power-function
            average.
        gamma: the power of the average; None for a default average that is not a power-function average.
        error: the error of its reconstruction; see `ddim.nn.power_averages.Combination`.
        step: the step of the checkpoint to which it belongs.
        weights: the SHA-256 of the weights of this checkpoint.
        snapshots: the steps of the snapshots from which it was reconstructed.
        choice: one row for each average that `ddim.pick_average` compared; () if the user gave the width.
    """

    width: float | None
    gamma: float | None
    error: float
    step: int
    weights: str
    snapshots: tuple[int, ...] = ()
    choice: tuple[dict[str, Any], ...] = ()


# Snapshots


def save_snapshot(run: Path, step: int, averages: Mapping[float, Mapping[str, Tensor]], keep: int) -> None:
    """Write the snapshot of `step`, and remove all but the newest `keep` snapshots.

    Args:
        run: the run folder.
        step: training steps so far.
        averages: the averages, keyed by power and then by tensor name.
        keep: number of snapshots to keep.

    Raises:
        NoSpace: if the disk has too little space; nothing is changed.
        NotFinite: if an average contains NaN or an infinity; nothing is changed.
    """
    named = {str(gamma): tensors for gamma, tensors in averages.items()}
    checkpoint.save(run / FOLDER / SNAPSHOTS, step, named, {}, keep)


def remove_later_snapshots(run: Path, step: int) -> None:
    """Remove the snapshots of steps after `step`; training will write them again."""
    checkpoint.remove_later(run / FOLDER / SNAPSHOTS, step)


def list_snapshots(run: Path, before: int) -> list[Snapshot]:
    """Return the undamaged snapshots of steps below `before`, the oldest first.

    A damaged snapshot is left out, with a warning.

    Raises:
        UserError: if a newer version of ddim wrote a snapshot.
    """
    snapshots = []
    for step, path in _list_folders(run):
        if step >= before:
            continue
        try:
            files = verify(path).files
        except Damaged as damage:
            warn_user(f"{damage}; this snapshot is not used")
            continue
        gammas = tuple(float(name.removesuffix(".safetensors")) for name in files)
        snapshots.append(Snapshot(path, step, gammas))
    return snapshots


def has_snapshots(run: Path, before: int) -> bool:
    """Return whether a run has snapshots of steps below `before`. They may be damaged."""
    return any(step < before for step, _ in _list_folders(run))


def _list_folders(run: Path) -> list[tuple[int, Path]]:
    """Return the steps and folders of all snapshots of a run, the oldest first."""
    places = ((parse_step(path.name), path) for path in (run / FOLDER / SNAPSHOTS).glob("step-*"))
    return sorted((place[0], path) for place, path in places if place)


# Stored averages


def store_average(run: Path, name: str, average: Mapping[str, Tensor], facts: StoredAverage) -> Path:
    """Store an average of a run, and return its folder; an older average with this name is replaced.

    Even after a crash, either the older or the new average is stored completely.

    Raises:
        UserError: if the average cannot be written.
        NoSpace: if the disk is full.
        NotFinite: if the average contains NaN or an infinity.
    """
    target = run / FOLDER / name
    try:
        with temporary_folder(target) as temporary:
            contents = {
                f"{AVERAGE}.safetensors": pack_tensors(AVERAGE, average),
                f"{AVERAGE}.json": render_json(asdict(facts)),
            }
            write_parts(temporary, facts.step, False, contents.items())
            _finish_replacing(target)
            replace_folder(temporary, target)
    except OSError as error:
        raise explain_error(error, f"average {name} cannot be written to {target.parent}") from None
    return target


def _finish_replacing(target: Path) -> None:
    """Finish or undo the replacement of a stored average that a killed process left unfinished."""
    fresh = target.with_name(target.name + FRESH)
    if not fresh.exists():
        return
    try:
        verify(fresh)
    except Damaged:
        remove_folder(fresh)
    else:
        settle_folder(fresh)


def list_stored(run: Path) -> dict[str, StoredAverage]:
    """Return the stored averages of a run, keyed by name; a damaged one is left out with a warning."""
    found = {}
    for name, path in find_stored(run).items():
        try:
            found[name] = read_stored(path)
        except Damaged as error:
            warn_user(f"{error}; it is left out")
    return found


def find_stored(run: Path) -> dict[str, Path]:
    """Return the folders of the stored averages of a run, keyed by name. They may be damaged."""
    found = {}
    # The folder "picked.new" comes after "picked", which it is about to replace if it is whole.
    for path in sorted((run / FOLDER).glob("[!.]*")):
        if path.name != SNAPSHOTS and path.is_dir():
            with suppress(Damaged):
                if path.name.endswith(FRESH):
                    read_stored(path)
                found[path.name.removesuffix(FRESH)] = path
    return found


def read_stored(path: Path) -> StoredAverage:
    """Return the facts about the average that is stored in a folder.

    Raises:
        Damaged: if the file with the facts or the manifest is damaged.
        UserError: if the folder holds no average, or a newer version of ddim wrote it.
    """
    document = read_document(path, AVERAGE)
    try:
        known: dict[str, Any] = dict(document)  # type: ignore[call-overload]
        known |= {name: tuple(known[name]) for name in ("snapshots", "choice")}
        return StoredAverage(**known)
    except (TypeError, KeyError, ValueError) as error:
        raise Damaged(f"{path} is damaged: {AVERAGE}.json is not about an average ({error})") from None


def find_stored_average(path: Path, weights: str, recipe: Recipe) -> Path | None:
    """Return the folder of a stored average; None if `weights` names weights in the checkpoint itself.

    Args:
        path: the checkpoint.
        weights: the name of the weights, see `ddim.load`.
        recipe: the recipe of the checkpoint.

    Raises:
        UserError: if there are no such weights, they are damaged, or the stored average belongs to another
            checkpoint.
    """
    tracked = track_averages(recipe.ema, recipe.report.snapshots)
    possible = ["ema", "raw", *(name for name in tracked if name != "default")]
    if weights in possible:
        return None
    run = find_run_folder(path)
    stored = {} if run == path else find_stored(run)
    if weights not in stored:
        possible += stored
        raise UserError(
            f"weights must be {', '.join(possible[:-1])} or {possible[-1]}, got {weights!r}"
            f"{describe_missing_step(run, weights)}"
        )
    facts = read_stored(stored[weights])
    if facts.weights != hash_weights(path):
        # `ddim ema RUN` makes an average for the newest checkpoint.
        newest = max((run / CHECKPOINTS).glob("step-*"), default=path)
        named = run if path.resolve() == newest.resolve() else path
        raise UserError(
            f"average {weights} of run {run} belongs to its checkpoint of step {facts.step}, not to {path}: "
            f"make it again with `ddim ema {quote(named)} {_find_options(weights, facts)}`"
        )
    return stored[weights]


def _find_options(name: str, facts: StoredAverage) -> str:
    """Return the options of `ddim ema` with which a stored average was made."""
    if facts.choice:
        usual = "picked"
        options = "--pick --by kid" if "kid" in facts.choice[0] else "--pick"
    else:
        usual, options = f"width-{facts.width:g}", f"--width {facts.width:g}"
    return options if name == usual else f"{options} --name {name}"


def check_average_name(name: str) -> str:
    """Check the name under which an average is to be stored, and return it.

    Raises:
        UserError: if the name is not a plain word, or has another meaning, such as "ema".
    """
    plain = re.fullmatch(r"[A-Za-z][\w.-]*", name, re.ASCII)
    taken = ("ema", "raw", SNAPSHOTS, BEST, GUIDE)
    if not plain or name in taken or name.startswith("power-") or name.endswith(FRESH):
        raise UserError(
            f"the name of an average must be a plain word such as picked, other than {', '.join(taken)}, "
            f"got {name!r}"
        )
    return name


def hash_weights(path: Path) -> str:
    """Return the SHA-256 (hex) of the weights in a checkpoint."""
    return read_manifest(path).files["model.safetensors"]["sha256"]
