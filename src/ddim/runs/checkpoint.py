"""Save, find and remove the checkpoints of a run. Even after a crash, each checkpoint is complete or absent.

A checkpoint is first written under a temporary name, ``.tmp-...``. After every file and folder is flushed to
the disk, the folder is renamed to its final name. The newest checkpoint is found by listing the folder.
No file names the newest checkpoint, because such a file could be out of date. Damaged checkpoints are never
loaded. `ddim.runs.manifest` reads and writes the files of one checkpoint.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ddim.errors import NoSpace, NotFinite, UserError, is_full_disk, warn_user
from ddim.files import TEMPORARY, make_folder, temporary_folder
from ddim.runs.manifest import (
    MANIFEST,
    Damaged,
    Manifest,
    check_names,
    hash_checkpoint,
    pack_tensors,
    parse_step,
    read_document,
    read_manifest,
    read_tensors,
    render_json,
    verify,
    write_parts,
)
from ddim.runs.replacing import FRESH, remove_folder, replace_folder, settle_folder

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "MANIFEST",
    "Damaged",
    "find_best",
    "find_best_step",
    "find_newest",
    "hash_checkpoint",
    "read_document",
    "read_newest_document",
    "read_steadily",
    "read_tensors",
    "remove_later",
    "save",
    "verify",
]

T = TypeVar("T")

_SLACK = 1 << 20


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, "Tensor"]],
    documents: Mapping[str, object],
    keep: int = 2,
    best: bool = False,
) -> Path:
    """Write the checkpoint of `step` into `folder`, then remove older checkpoints.

    An older checkpoint of the same step is replaced when the new checkpoint is complete. Only one process may
    write at a time (see `lock_folder`). Unfinished files of an earlier process are removed.

    Args:
        folder: the folder of a run's checkpoints.
        step: training steps so far.
        tensors: tensors of any shape and device, in groups with names such as "model" or "ema/default".
        documents: JSON documents without NaN, keyed by name.
        keep: number of newest undamaged checkpoints to keep. The newest checkpoint saved with `best` is kept
            too.
        best: whether this is the best checkpoint so far.

    Returns:
        The folder of the new checkpoint.

    Raises:
        NoSpace: if the disk has too little space. The space is checked before writing, and no checkpoint is
            changed.
        NotFinite: if a tensor contains NaN or an infinity; no checkpoint is changed.
        ValueError, TypeError: if a document is not JSON or a name is invalid; no checkpoint is changed.
        UserError: if `step` is below 0 or `keep` is below 1.
    """
    if step < 0 or keep < 1:
        raise UserError(f"a checkpoint needs step >= 0 and keep >= 1, got step {step} and keep {keep}")
    pages = {f"{name}.json": render_json(document) for name, document in documents.items()}
    check_names([*tensors, *documents])
    target = folder / f"step-{step:09d}"

    def list_contents() -> Iterator[tuple[str, bytes]]:
        yield from pages.items()
        # A generator holds only one group of tensors at a time in memory.
        yield from ((f"{name}.safetensors", pack_tensors(name, group)) for name, group in tensors.items())

    try:
        make_folder(folder)
        _finish_writing(folder)
        _check_space(folder, tensors, pages)
        with temporary_folder(target) as temporary:
            write_parts(temporary, step, best, list_contents())
            replace_folder(temporary, target)
    except NotFinite as error:
        raise NotFinite(f"{target.name} was not written, because {error}") from None
    except OSError as error:
        if is_full_disk(error) and not isinstance(error, NoSpace):
            raise NoSpace(
                f"{folder} is full: {target.name} was not written, earlier checkpoints are unchanged"
            ) from error
        raise
    _prune(folder, target, keep)
    return target


def find_newest(folder: Path) -> Path | None:
    """Return the newest undamaged checkpoint in `folder`, or None.

    A damaged checkpoint is renamed to ``damaged-step-...-k`` and skipped, with a warning.

    Raises:
        UserError: if a newer version of ddim wrote the checkpoint.
    """
    return _find(folder, lambda manifest: True)


def find_best(folder: Path) -> Path | None:
    """Return the newest undamaged checkpoint that is marked as best, or None; see `find_newest`."""
    return _find(folder, lambda manifest: manifest.best)


def read_newest_document(folder: Path, name: str) -> Any:  # noqa: ANN401 (JSON)
    """Return the JSON document `name` of the newest checkpoint in `folder`, or None if there is none.

    Only this document and the manifest are verified, so this is fast, and no damaged checkpoint is renamed.

    Raises:
        UserError: if a newer version of ddim wrote the checkpoint.
    """
    for path in _checkpoints(folder):
        with suppress(Damaged):
            return read_document(path, name)
    return None


def read_steadily(find: Callable[[], Path], read: Callable[[Path], T]) -> T:
    """Return `read(find())`; find and read again if the checkpoint was replaced meanwhile.

    A training in progress may remove or replace the checkpoint while it is read. Without another attempt, an
    undamaged checkpoint could be called damaged, or the result could mix parts of two checkpoints.
    """
    while True:
        path = find()
        before = _identity(path)
        try:
            found = read(path)
        except UserError:
            if _identity(path) == before:
                raise
            continue
        # A checkpoint that was removed after the last file was read is whole.
        if _identity(path) in (before, None):
            return found


def remove_later(folder: Path, step: int) -> None:
    """Remove the checkpoints of steps after `step` from `folder`.

    Only one process may write to the folder at a time; see `save`.
    """
    for path in _checkpoints(folder):
        place = parse_step(path.name)
        if place and place[0] > step:
            remove_folder(path)


def find_best_step(folder: Path) -> int:
    """Return the step of the newest checkpoint that was saved with `best`; -1 if none is known to be."""
    for path in _checkpoints(folder):
        with suppress(Damaged):
            manifest = read_manifest(path)
            if manifest.best:
                return manifest.step
    return -1


# Writing


def _check_space(
    folder: Path, tensors: Mapping[str, Mapping[str, "Tensor"]], pages: Mapping[str, bytes]
) -> None:
    needed = _SLACK + sum(len(page) for page in pages.values())
    needed += sum(tensor.nbytes for group in tensors.values() for tensor in group.values())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NoSpace(
            f"a checkpoint needs {needed / 1e6:.1f} MB and {folder} has {free / 1e6:.1f} MB free: make room"
        )


def _finish_writing(folder: Path) -> None:
    """Clean up after a process that was killed while it wrote a checkpoint.

    The unfinished checkpoints of that process are removed. A complete folder ``step-....new`` gets its final
    name.
    """
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for path in _checkpoints(folder):
        if path.name.endswith(FRESH):
            try:
                verify(path)
            except Damaged:
                _set_aside(path)
            else:
                settle_folder(path)


def _prune(folder: Path, written: Path, keep: int) -> None:
    kept, marked = 0, False
    for path in _checkpoints(folder):
        spared = kept < keep
        # A damaged checkpoint does not count towards `keep`. `find_newest` renames damaged checkpoints.
        with suppress(Damaged):
            manifest = read_manifest(path) if path == written or not spared else verify(path)
            kept += 1
            spared |= manifest.best and not marked
            marked |= manifest.best
        if not spared:
            remove_folder(path)


# Reading


def _checkpoints(folder: Path) -> list[Path]:
    """Return all folders with the name of a checkpoint, the newest first."""
    found = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            place = parse_step(entry.name)
            if place and entry.is_dir(follow_symlinks=False):
                found.append((*place, folder / entry.name))
    return [path for *_, path in sorted(found, reverse=True)]


def _find(folder: Path, wanted: Callable[[Manifest], bool]) -> Path | None:
    passed: set[Path] = set()
    while paths := [path for path in _checkpoints(folder) if path not in passed]:
        path = paths[0]
        identity = _identity(path)
        try:
            if wanted(verify(path)):
                return path
            passed.add(path)
        except Damaged as damage:
            # If a training has moved or replaced the folder in the meantime, do not rename it: look again.
            if identity is not None and identity == _identity(path):
                passed.add(path)
                warn_user(f"{damage}; {_set_aside(path)}")
    return None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    # The time is needed too, because the inode number of a removed folder is soon used again.
    return found.st_ino, found.st_mtime_ns


def _set_aside(path: Path) -> str:
    """Rename a damaged checkpoint, and return a description of what was done."""
    k, name = 1, path.name.removesuffix(FRESH)
    while (aside := path.with_name(f"damaged-{name}-{k}")).exists():
        k += 1
    try:
        os.rename(path, aside)
    except OSError as error:
        return f"it is skipped, and could not be renamed ({error.strerror})"
    return f"it is skipped, and was renamed to {aside.name}"
