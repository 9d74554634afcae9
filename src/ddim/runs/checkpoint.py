"""Write, find and read checkpoints. Even after a crash, each checkpoint is complete or absent.

A checkpoint is a folder ``step-000000123/`` with ``model.safetensors``, ``ema/<name>.safetensors``,
``optimizer.safetensors``, ``state.json``, ``recipe.json`` and ``MANIFEST.json``. It is written under a
temporary name, flushed to the disk and renamed once. The newest checkpoint is found by listing the folder.

The manifest holds the step, whether the checkpoint was the best so far, the SHA-256 of every other file, and
a seal. Everything that is read is compared with the manifest, so damaged files are never used. Reading a
checkpoint never runs code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ddim.errors import NotFinite, UserError, explain_error, warn_user
from ddim.files import publish_folder, read_sealed, remove_leftovers, seal, temporary_folder, temporary_name

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Tensors = Mapping[str, Mapping[str, "Tensor"]]
"""Groups of tensors with names such as "model" or "ema/default"; each group is keyed by tensor name."""

Documents = Mapping[str, object]
"""Values that JSON can express, without NaN, keyed by name."""

MANIFEST = "MANIFEST.json"


class Damaged(UserError):  # noqa: N818 (a state, named as users name it)
    """A checkpoint is damaged: a file differs from the written file. The message names the file."""


@dataclass(frozen=True)
class Manifest:
    """The contents of MANIFEST.json; `files` maps the name of each other file to its SHA-256 (hex)."""

    step: int
    best: bool
    files: dict[str, str]


# Writing


def save(
    folder: Path, step: int, tensors: Tensors, documents: Documents, keep: int = 2, best: bool = False
) -> Path:
    """Write the checkpoint of `step` into `folder`, then remove older checkpoints.

    Only one process may write at a time (see `lock_folder`). Unfinished files of an earlier process are
    removed. A checkpoint of the same step is removed first.

    Args:
        folder: the folder of a run's checkpoints.
        step: training steps so far.
        tensors: groups of tensors of any shape and device.
        documents: JSON documents.
        keep: number of newest checkpoints to keep. The newest checkpoint saved with `best` is kept too.
        best: whether this is the best checkpoint so far.

    Returns:
        The folder of the new checkpoint.

    Raises:
        NoSpace: if the disk is full; no checkpoint is changed.
        UserError: if the system refuses to write for another reason; no checkpoint is changed.
        NotFinite: if a tensor contains NaN or an infinity; no checkpoint is changed.
        ValueError, TypeError: if a document is not JSON; no checkpoint is changed.
    """
    target = folder / f"step-{step:09d}"
    remove_leftovers(folder)
    try:
        replace_checkpoint(target, step, tensors, documents, best)
    except NotFinite as error:
        raise NotFinite(f"{target.name} was not written, because {error}") from None
    except OSError as error:
        raise explain_error(error, f"{target} was not written") from error
    kept = read_newest(folder, lambda path: path, best=True, writes=True)
    for _, path in list_steps(folder)[:-keep]:
        if path != kept:
            _remove_folder(path)
    return target


def replace_checkpoint(
    target: Path, step: int, tensors: Tensors, documents: Documents, best: bool = False
) -> None:
    """Write a checkpoint as the folder `target`, in place of an older one; see `save`."""
    with temporary_folder(target) as temporary:
        write_checkpoint(temporary, step, tensors, documents, best)
        if target.exists():
            _remove_folder(target)
        publish_folder(temporary, target)


def write_checkpoint(
    folder: Path, step: int, tensors: Tensors, documents: Documents, best: bool = False
) -> None:
    """Write the files of a checkpoint and their manifest into an existing folder; see `save`."""
    files = {}

    def write(name: str, content: bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        files[name] = hashlib.sha256(content).hexdigest()

    for name, document in documents.items():
        write(f"{name}.json", _render_json(document))
    # Only one group of tensors at a time is copied to memory.
    for name, group in tensors.items():
        write(f"{name}.safetensors", _pack_tensors(name, group))
    (folder / MANIFEST).write_bytes(_render_json(seal(asdict(Manifest(step, best, files)))))


def remove_later(folder: Path, step: int) -> None:
    """Remove the checkpoints of steps after `step` from `folder`."""
    for later, path in list_steps(folder):
        if later > step:
            _remove_folder(path)


def _remove_folder(path: Path) -> None:
    """Remove a folder so that a crash leaves it complete or absent."""
    # The folder is renamed first, because a partly deleted one would look like a damaged one.
    rubbish = temporary_name(path)
    os.rename(path, rubbish)
    shutil.rmtree(rubbish, ignore_errors=True)


def _render_json(value: object) -> bytes:
    return (json.dumps(value, allow_nan=False, indent=1) + "\n").encode()


def _pack_tensors(name: str, group: Mapping[str, Tensor]) -> bytes:
    """Return tensors of any device and memory layout as the bytes of a safetensors file."""
    import torch
    from safetensors.torch import save as pack

    packed = {}
    for key, tensor in group.items():
        # Tensors are copied, because the format cannot store channels_last or tensors that share memory.
        packed[key] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        if not packed[key].isfinite().all():
            raise NotFinite(f"{key} in {name} is not finite")
    return pack(packed)


# Finding


def parse_step(name: str) -> int | None:
    """Return the step in the name of a checkpoint folder; None for any other name."""
    match = re.fullmatch(r"step-(\d{9,})", name)
    return int(match[1]) if match else None


def list_steps(folder: Path, suffix: str = "") -> list[tuple[int, Path]]:
    """Return the step and the path of each checkpoint, or file STEP.suffix, in a folder, sorted by step."""
    steps = ((parse_step(path.name.removesuffix(suffix)), path) for path in folder.glob("step-*"))
    return sorted((step, path) for step, path in steps if step is not None)


def read_newest(
    folder: Path, read: Callable[[Path], T], best: bool = False, *, writes: bool = False
) -> T | None:
    """Return `read(path)` for the newest undamaged checkpoint in a folder; None without one.

    A damaged checkpoint is skipped, with a warning. A checkpoint that a training removes meanwhile is skipped
    too.

    Args:
        folder: the folder of a run's checkpoints.
        read: a function of the folder of a checkpoint. It raises `Damaged` for damaged files, as
            `read_tensors`, `read_document` and `verify` do, so that each file is read once.
        best: whether only checkpoints that are marked as best count.
        writes: whether the caller writes this run. It renames a damaged checkpoint to
            ``damaged-step-...-k``; for other readers, a training may be saving it again.
    """
    passed: set[Path] = set()
    # The folder is listed again each time, because a training may write and remove checkpoints meanwhile.
    while paths := [path for _, path in list_steps(folder) if path not in passed]:
        passed.add(path := paths[-1])
        try:
            if not best or read_manifest(path).best:
                return read(path)
        except UserError as error:
            damage = _find_damage(path)
            # A checkpoint that is no longer damaged was saved again while it was read.
            if damage is None and isinstance(error, Damaged):
                return read(path)
            if damage is None:
                raise
            if path.exists():
                warn_user(f"{damage}; it is skipped{_set_aside(path) if writes else ''}")
    return None


def _find_damage(path: Path) -> Damaged | None:
    """Return why a checkpoint is damaged or absent; None if it is neither."""
    try:
        verify(path)
    except Damaged as damage:
        return damage
    return None


def _set_aside(path: Path) -> str:
    """Rename a damaged checkpoint, and return its new name as the end of a sentence."""
    number = len([*path.parent.glob(f"damaged-{path.name}-*")]) + 1
    aside = path.with_name(f"damaged-{path.name}-{number}")
    with suppress(OSError):
        os.rename(path, aside)
    return f", as {aside.name}"


# Reading


def verify(path: Path) -> Path:
    """Compare every file of the checkpoint `path` with its manifest, and return `path`.

    Raises:
        Damaged: if a file is missing, unknown or changed (the message names the first such file), or the
            name of the folder has another step than the manifest.
    """
    manifest = read_manifest(path)
    present = {file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()}
    for name in sorted(present ^ {MANIFEST, *manifest.files}):
        raise Damaged(f"{path} is damaged: {name} is missing or does not belong to it")
    for name in manifest.files:
        _read(path, name, manifest)
    if parse_step(path.name) not in (None, manifest.step):
        raise Damaged(f"{path} is damaged: {MANIFEST} belongs to step {manifest.step}")
    return path


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of the checkpoint `path`.

    Raises:
        Damaged: if the manifest is missing or has changed.
    """
    try:
        return Manifest(**read_sealed(path / MANIFEST))
    except (UserError, TypeError) as error:
        raise Damaged(f"{path} is damaged: {MANIFEST} is missing or has changed ({error})") from None


def hash_checkpoint(path: Path) -> str:
    """Return the SHA-256 (hex) of a checkpoint's manifest, which depends on every byte of the checkpoint.

    Raises:
        Damaged: if the manifest is missing, as after a training has removed the checkpoint.
    """
    try:
        return hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
    except FileNotFoundError:
        raise Damaged(f"{path} is damaged: {MANIFEST} is missing") from None


def read_tensors(path: Path, name: str) -> dict[str, Tensor]:
    """Return the tensors that were saved as `name`, on the CPU.

    Raises:
        Damaged: if any byte of the file has changed.
        UserError: if the checkpoint has no such tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = _read(path, f"{name}.safetensors", read_manifest(path))
    try:
        return load(content)
    # A header with a dtype that torch does not have raises KeyError.
    except (SafetensorError, ValueError, KeyError) as error:
        raise Damaged(f"{path} is damaged: {name}.safetensors is not a safetensors file ({error})") from error


def read_document(path: Path, name: str) -> Any:  # noqa: ANN401 (JSON)
    """Return the JSON document that was saved as `name`.

    Raises:
        Damaged: if any byte of the file has changed.
        UserError: if the checkpoint has no such document.
    """
    content = _read(path, f"{name}.json", read_manifest(path))
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged: {name}.json is not JSON ({error})") from error


def _read(path: Path, name: str, manifest: Manifest) -> bytes:
    if name not in manifest.files:
        raise UserError(f"{path} has no {name}; it has {', '.join(sorted(manifest.files))}")
    try:
        content = (path / name).read_bytes()
    except FileNotFoundError:
        raise Damaged(f"{path} is damaged: {name} is missing") from None
    if hashlib.sha256(content).hexdigest() != manifest.files[name]:
        raise Damaged(f"{path} is damaged: {name}: its bytes have changed")
    return content
