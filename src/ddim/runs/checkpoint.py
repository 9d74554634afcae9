"""Checkpoints: folders of safetensors and JSON that are whole or absent, and never loaded when damaged.

A checkpoint is ``step-000000123/`` with ``model.safetensors``, ``ema/<profile>.safetensors``,
``optimizer.safetensors``, ``state.json``, ``recipe.json`` and ``MANIFEST.json``: the size and SHA-256 of
every other file, the step, whether it was the best so far, and a SHA-256 of the manifest itself.
Nothing in it can run code.

It is written beside as ``.tmp-...``, every file and folder is flushed to the disk, and one rename makes it
exist. The newest whole one is found by looking; no file points to another, so nothing can dangle.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.errors import FULL_DISK, NoSpace, UserError
from ddim.files import TEMPORARY, make_folder, publish_folder, sync_folder, temporary_folder, write_new

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
"""The version of this layout and of ``state.json``."""

MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""What turns the ``state`` of schema n into that of n + 1, by n."""

MANIFEST = "MANIFEST.json"
BEST = "best"
"""RUN/best is no folder: it stands for the best checkpoint that a run kept."""
_STEP = re.compile(r"step-(\d{9,})(\.new)?")
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)
_SLACK = 1 << 20


class Damaged(UserError):  # noqa: N818 (a state, named as users name it)
    """A checkpoint is not what was written; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class _Manifest:
    schema: int
    step: int
    best: bool
    files: dict[str, dict[str, Any]]


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, "Tensor"]],
    documents: Mapping[str, object],
    keep: int = 2,
    best: bool = False,
) -> Path:
    """Write the checkpoint of `step` into `folder`, then remove older ones; the folder of the new one.

    `tensors` maps a name such as "model" or "ema/default" to tensors of any shape and device; `documents`
    maps a name to JSON values without NaN ("state" is given its "schema"). The newest `keep` whole ones stay,
    and the newest that was saved with `best`. A checkpoint of the same step is replaced, and at no instant is
    there neither.

    One process writes at a time (see `lock_folder`): what an earlier one left half-written is removed. Raises
    `NoSpace` when the disk is too full, before writing where that can be known; ValueError or TypeError for a
    document that is not JSON; the checkpoints that exist are then untouched.
    """
    if step < 0 or keep < 1:
        raise UserError(f"a checkpoint needs step >= 0 and keep >= 1, got step {step} and keep {keep}")
    pages = {f"{name}.json": _render(_stamped(name, document)) for name, document in documents.items()}
    _check_names([*tensors, *documents])
    target = folder / f"step-{step:09d}"
    try:
        make_folder(folder)
        _tidy(folder)
        _check_space(folder, tensors, pages)
        with temporary_folder(target) as temporary:
            files = {name: _write(temporary / name, page) for name, page in pages.items()}
            for name, group in tensors.items():
                files[f"{name}.safetensors"] = _write(temporary / f"{name}.safetensors", _packed(group))
            write_new(temporary / MANIFEST, _sealed(asdict(_Manifest(SCHEMA, step, best, files))))
            _publish(temporary, target)
    except OSError as error:
        if error.errno in FULL_DISK:
            raise NoSpace(
                f"{folder} is full: {target.name} was not written, earlier checkpoints are untouched"
            ) from error
        raise
    _prune(folder, target, keep)
    return target


def newest(folder: Path, on_damage: Callable[[str], object] = warnings.warn) -> Path | None:
    """The newest whole checkpoint in `folder`, or None.

    A damaged one is renamed to ``damaged-step-...-k`` and passed over; `on_damage` is told so in one
    sentence. Raises `UserError` for a checkpoint of a newer ddim.
    """
    return _newest(folder, on_damage, lambda manifest: True)


def best(folder: Path, on_damage: Callable[[str], object] = warnings.warn) -> Path | None:
    """The newest whole checkpoint that was saved as the best so far, or None; damaged ones as in `newest`."""
    return _newest(folder, on_damage, lambda manifest: manifest.best)


def names_best(run: Path) -> bool:
    """Whether a path is RUN/best of a run folder, whether the run kept one or not."""
    return run.name == BEST and not run.exists() and (run.parent / "checkpoints").is_dir()


def chosen(run: Path) -> Path | None:
    """The checkpoint that RUN/best stands for, the best that the run kept, and None for any other path.

    UserError where the run kept none.
    """
    if not names_best(run):
        return None
    found = best(run.parent / "checkpoints")
    if found is None:
        raise UserError(f"run {run.parent} has no best checkpoint: it has measured nothing yet (report.best)")
    return found


def verify(path: Path) -> None:
    """Compare every file of the checkpoint `path` with its manifest.

    Raises `Damaged` naming the first file that is missing, extra, or not what was written; `UserError` if a
    newer ddim made it.
    """
    _verified(path)


def digest(path: Path) -> str:
    """The SHA-256 (hex) of the manifest of the checkpoint `path`, which covers every byte of it."""
    return hashlib.sha256(_sealed(asdict(_manifest(path)))).hexdigest()


def read_tensors(path: Path, name: str) -> dict[str, "Tensor"]:
    """The tensors that were saved as `name`, on the CPU.

    Raises `Damaged` unless the file is byte for byte what was written, and
    `UserError` where the checkpoint has no such tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = _read(path, f"{name}.safetensors")
    try:
        return load(content)
    # KeyError: a header may name a type that torch does not have.
    except (SafetensorError, ValueError, KeyError) as error:
        raise Damaged(f"{path} is damaged: {name}.safetensors is not a safetensors file ({error})") from error


def read_document(path: Path, name: str) -> object:
    """The document that was saved as `name`; "state" is brought to the present schema.

    Raises `Damaged` unless the file is byte for byte what was written, and `UserError` where the checkpoint
    has no such document.
    """
    document = _parse(path, f"{name}.json", _read(path, f"{name}.json"))
    return _migrated(path, document) if name == "state" else document


# Writing


def _render(value: object) -> bytes:
    return (json.dumps(value, allow_nan=False, indent=1) + "\n").encode()


def _sealed(fields: dict[str, Any]) -> bytes:
    """A manifest as it is written: its fields, then their SHA-256. This rule outlives every schema."""
    return _render(fields | {"sha256": hashlib.sha256(_render(fields)).hexdigest()})


def _stamped(name: str, document: object) -> object:
    if name != "state":
        return document
    if not isinstance(document, Mapping):
        raise TypeError(f"the document 'state' is a mapping, got {type(document).__name__}")
    return {**document, "schema": SCHEMA}


def _packed(group: Mapping[str, "Tensor"]) -> bytes:
    import torch
    from safetensors.torch import save as pack

    # Copies: the format has neither channels_last nor tensors that share memory.
    return pack(
        {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in group.items()
        }
    )


def _check_names(names: list[str]) -> None:
    for name in names:
        if not _NAME.fullmatch(name) or name.upper() == "MANIFEST":
            raise ValueError(f"a part of a checkpoint cannot be named {name!r}")


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


def _write(path: Path, content: bytes) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_new(path, content)
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _publish(temporary: Path, target: Path) -> None:
    if not target.exists():
        publish_folder(temporary, target)
        return
    # A folder cannot be renamed onto a full one: for an instant there are both, and readers prefer the new.
    fresh = target.with_name(target.name + ".new")
    publish_folder(temporary, fresh)
    _settle(fresh)


def _settle(fresh: Path) -> None:
    target = fresh.with_name(fresh.name.removesuffix(".new"))
    if target.exists():
        _remove(target)
    os.rename(fresh, target)
    sync_folder(target.parent)


def _remove(path: Path) -> None:
    # Renamed first, so that a half-deleted checkpoint never looks like a damaged one.
    rubbish = path.with_name(f"{TEMPORARY}{os.getpid()}-old-{path.name}")
    os.rename(path, rubbish)
    shutil.rmtree(rubbish)


def _tidy(folder: Path) -> None:
    """Finish or remove what a dead writer left."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for path in _checkpoints(folder):
        if path.name.endswith(".new"):
            try:
                _verified(path)
            except Damaged:
                _set_aside(path)
            else:
                _settle(path)


def _prune(folder: Path, written: Path, keep: int) -> None:
    kept, marked = 0, False
    for path in _checkpoints(folder):
        spared = kept < keep
        # One that is damaged is not counted; newest() sets it aside if it is ever asked for.
        with suppress(Damaged):
            manifest = _manifest(path) if path == written or not spared else _verified(path)
            kept += 1
            spared |= manifest.best and not marked
            marked |= manifest.best
        if not spared:
            _remove(path)


# Reading


def _checkpoints(folder: Path) -> list[Path]:
    """All that look like checkpoints, newest first."""
    found = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            match = _STEP.fullmatch(entry.name)
            if match and entry.is_dir(follow_symlinks=False):
                found.append((int(match[1]), match[2] is not None, folder / entry.name))
    return [path for *_, path in sorted(found, reverse=True)]


def _newest(
    folder: Path, on_damage: Callable[[str], object], wanted: Callable[[_Manifest], bool]
) -> Path | None:
    passed: set[Path] = set()
    while paths := [path for path in _checkpoints(folder) if path not in passed]:
        path = paths[0]
        identity = _identity(path)
        try:
            if wanted(_verified(path)):
                return path
            passed.add(path)
        except Damaged as damage:
            # A trainer may have moved or replaced it between two reads: look again, and harm nothing.
            if identity is not None and identity == _identity(path):
                passed.add(path)
                on_damage(f"{damage}; {_set_aside(path)}")
    return None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    # The number of a folder that was removed is soon given to a new one.
    return found.st_ino, found.st_mtime_ns


def _set_aside(path: Path) -> str:
    """Rename a damaged checkpoint; what was done, in words."""
    k, name = 1, path.name.removesuffix(".new")
    while (aside := path.with_name(f"damaged-{name}-{k}")).exists():
        k += 1
    try:
        os.rename(path, aside)
    except OSError as error:
        return f"it is passed over, and could not be renamed ({error.strerror})"
    return f"it is passed over, and was renamed to {aside.name}"


def _parse(path: Path, name: str, content: bytes) -> Any:  # noqa: ANN401 (JSON)
    def reject(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(content.decode(), parse_constant=reject)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged: {name} is not JSON ({error})") from error


def _load(path: Path, name: str) -> bytes:
    try:
        # A link may lead anywhere and a pipe may wait for ever: neither is opened.
        if stat.S_ISREG((path / name).lstat().st_mode):
            return (path / name).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Damaged(f"{path} is damaged: {name} is missing") from error
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise Damaged(f"{path} is damaged: {name} cannot be read ({error.strerror})") from error
    raise Damaged(f"{path} is damaged: {name} is not a plain file")


def _manifest(path: Path) -> _Manifest:
    content = _load(path, MANIFEST)
    fields = _parse(path, MANIFEST, content)
    try:
        del fields["sha256"]
        sound = _sealed(fields) == content
    # ValueError and RecursionError: JSON that can be read and not be written, as 1e999.
    except (TypeError, KeyError, ValueError, RecursionError):
        sound = False
    if not sound or type(fields.get("schema")) is not int:
        raise Damaged(f"{path} is damaged: {MANIFEST} is not what was written")
    _check_schema(path, fields["schema"])
    kinds = {name: type(value) for name, value in fields.items()}
    if kinds != {"schema": int, "step": int, "best": bool, "files": dict}:
        raise Damaged(f"{path} is damaged: {MANIFEST} has not the fields of a manifest")
    for name in fields["files"]:
        if not _NAME.fullmatch(name) or name.upper() == MANIFEST.upper():
            raise Damaged(f"{path} is damaged: {MANIFEST} lists {name!r}, which no checkpoint holds")
    return _Manifest(**fields)


def _compare(path: Path, manifest: _Manifest, name: str) -> bytes:
    content, said = _load(path, name), manifest.files[name]
    found = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    if found != said:
        what = (
            "its bytes are not those that were written"
            if isinstance(said, dict) and found["size"] == said.get("size")
            else f"it has {len(content)} bytes, which is not what was written"
        )
        raise Damaged(f"{path} is damaged: {name}: {what}")
    return content


def _verified(path: Path) -> _Manifest:
    manifest = _manifest(path)
    expected = {*manifest.files, MANIFEST}
    folders = {parent.as_posix() for name in expected for parent in Path(name).parents}
    for inner, names, files in os.walk(path):
        for name in sorted([*names, *files]):
            place = (Path(inner) / name).relative_to(path).as_posix()
            if place not in expected | folders or (path / place).is_symlink():
                raise Damaged(f"{path} is damaged: {place!r} does not belong to it")
    for name in manifest.files:
        _compare(path, manifest, name)
    match = _STEP.fullmatch(path.name)
    if match and int(match[1]) != manifest.step:
        raise Damaged(f"{path} is damaged: {MANIFEST} is that of step {manifest.step}")
    return manifest


def _read(path: Path, name: str) -> bytes:
    manifest = _manifest(path)
    if name not in manifest.files:
        raise UserError(f"{path} has no {name}; it has {', '.join(sorted(manifest.files))}")
    return _compare(path, manifest, name)


def _check_schema(path: Path, schema: int) -> None:
    if schema > SCHEMA:
        raise UserError(
            f"{path} was made by a newer ddim (its schema is {schema}, this one knows {SCHEMA}): upgrade ddim"
        )


def _migrated(path: Path, state: Any) -> dict[str, Any]:  # noqa: ANN401 (JSON)
    schema = state.get("schema") if isinstance(state, dict) else None
    if type(schema) is not int:
        raise Damaged(f"{path} is damaged: state.json has no schema")
    _check_schema(path, schema)
    for version in range(schema, SCHEMA):
        if version not in MIGRATIONS:
            raise Damaged(f"{path} is damaged: state.json has schema {schema}, which never was")
        state = MIGRATIONS[version](state) | {"schema": version + 1}
    return state
