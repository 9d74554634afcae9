"""Keep snapshots and reconstructed averages of a run's weights beside its checkpoints, in RUN/averages.

``snapshots/step-000000123/`` holds the averages of two powers after this step (see
`ddim.nn.power_averages`), as ``<power>.safetensors``. Training writes these folders. Any other folder, such
as ``width-0.05/``, holds an average that `ddim.ema` stored, in the files ``average.safetensors`` and
``average.json``. Each folder has a manifest, like a checkpoint.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from ddim.errors import UserError, warn_user
from ddim.runs import checkpoint
from ddim.runs.folder import list_checkpoints
from ddim.runs.names import find_run_folder

K = TypeVar("K")
T = TypeVar("T")
FOLDER, SNAPSHOTS, AVERAGE = "averages", "snapshots", "average"


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
        choice: one row for each average that `ddim.ema` compared; () if the user gave the width.
    """

    width: float | None
    gamma: float | None
    error: float
    step: int
    weights: str
    snapshots: tuple[int, ...] = ()
    choice: tuple[dict[str, Any], ...] = ()


# Snapshots


def list_snapshots(run: Path, before: int) -> dict[int, Path]:
    """Return the folders of the snapshots of steps below `before`, keyed by step, the oldest first.

    Each holds the averages of the powers `GAMMAS`. A damaged one is left out with a warning.
    """
    steps = checkpoint.list_steps(run / FOLDER / SNAPSHOTS)
    return _read_undamaged({step: path for step, path in steps if step < before}, checkpoint.verify)


# Stored averages


def store_average(run: Path, name: str, average: Mapping[str, Tensor], facts: StoredAverage) -> Path:
    """Store an average of a run, and return its folder; an older average with this name is removed.

    Raises:
        NotFinite: if the average contains NaN or an infinity.
    """
    target = run / FOLDER / name
    checkpoint.replace_checkpoint(target, facts.step, {AVERAGE: average}, {AVERAGE: asdict(facts)})
    return target


def find_stored(run: Path) -> dict[str, Path]:
    """Return the folders of the stored averages of a run, keyed by name. They may be damaged."""
    folders = sorted((run / FOLDER).glob("[!.]*"))
    return {path.name: path for path in folders if path.name != SNAPSHOTS and path.is_dir()}


def list_stored(run: Path) -> dict[str, StoredAverage]:
    """Return the stored averages of a run, keyed by name; a damaged one is left out with a warning."""
    return _read_undamaged(find_stored(run), read_stored)


def _read_undamaged(paths: Mapping[K, Path], read: Callable[[Path], T]) -> dict[K, T]:
    """Return `read(path)` for each path; a path with damaged files is left out with a warning."""
    found = {}
    for key, path in paths.items():
        try:
            found[key] = read(path)
        except checkpoint.Damaged as damage:
            warn_user(f"{damage}; it is not used")
    return found


def read_stored(path: Path) -> StoredAverage:
    """Return the facts about the average that is stored in a folder.

    Raises:
        Damaged: if the file with the facts or the manifest is damaged.
    """
    facts = checkpoint.read_document(path, AVERAGE)
    lists = {name: tuple(facts[name]) for name in ("snapshots", "choice")}
    return StoredAverage(**facts | lists)


def list_weights(path: Path) -> list[str]:
    """Return the names of the weights in a checkpoint: "ema", "raw", and those of its other averages."""
    files = [Path(name) for name in checkpoint.read_manifest(path).files]
    return ["ema", "raw", *(file.stem for file in files if file.match("ema/*") and file.stem != "default")]


def find_stored_average(path: Path, weights: str) -> Path | None:
    """Return the folder of a stored average; None if `weights` names weights in the checkpoint itself.

    Args:
        path: the checkpoint.
        weights: the name of the weights, see `ddim.load`.

    Raises:
        UserError: if there are no such weights, or the stored average belongs to another checkpoint.
    """
    if weights in (names := list_weights(path)):
        return None
    run = find_run_folder(path)
    stored = {} if run == path else find_stored(run)
    if weights not in stored:
        steps = ", ".join(str(step) for step, _ in list_checkpoints(run))
        known = ", ".join([*names, *stored])
        raise UserError(f"weights must be one of {known}, or a step ({steps}), got {weights!r}")
    facts = read_stored(stored[weights])
    if facts.weights != hash_weights(path):
        raise UserError(f"average {weights} belongs to its checkpoint of step {facts.step}: rerun `ddim ema`")
    return stored[weights]


def hash_weights(path: Path) -> str:
    """Return the SHA-256 (hex) of the weights in a checkpoint."""
    return checkpoint.read_manifest(path).files["model.safetensors"]
