"""Read and write the files of one checkpoint, and detect damage by its manifest.

A checkpoint is a folder ``step-000000123/`` with ``model.safetensors``, ``ema/<name>.safetensors``,
``optimizer.safetensors``, the tensors of other parts of the training, ``state.json``, ``recipe.json`` and
``MANIFEST.json``. The manifest holds the size and SHA-256 of every other file, the step, whether the
checkpoint was the best so far, and a SHA-256 of these entries. Reading these files never runs code.
"""

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.errors import NotFinite, UserError

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
"""The version of this layout."""
MANIFEST = "MANIFEST.json"
_STEP = re.compile(r"step-(\d{9,})(\.new)?")
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)


class Damaged(UserError):  # noqa: N818 (a state, named as users name it)
    """A checkpoint is damaged: a file differs from the written file. The message names the file."""


@dataclass(frozen=True)
class Manifest:
    """The contents of MANIFEST.json; `files` maps a file name to its size and SHA-256."""

    schema: int
    step: int
    best: bool
    files: dict[str, dict[str, Any]]


def parse_step(name: str) -> tuple[int, bool] | None:
    """Return the step in the name of a checkpoint folder, and whether the name ends in ".new".

    The result is None for any other name. A folder ``step-....new`` is about to replace the checkpoint of the
    same step.
    """
    match = _STEP.fullmatch(name)
    return (int(match[1]), match[2] is not None) if match else None


def verify(path: Path) -> Manifest:
    """Compare every file of the checkpoint `path` with its manifest, and return the manifest.

    Raises:
        Damaged: if a file is missing, unknown or changed (the message names the first such file), or the
            name of the folder has another step than the manifest.
        UserError: if a newer version of ddim wrote the checkpoint.
    """
    manifest = read_manifest(path)
    expected = {*manifest.files, MANIFEST}
    folders = {parent.as_posix() for name in expected for parent in Path(name).parents}
    for inner, names, files in os.walk(path):
        for name in sorted([*names, *files]):
            place = (Path(inner) / name).relative_to(path).as_posix()
            if place not in expected | folders or (path / place).is_symlink():
                raise Damaged(f"{path} is damaged: {place!r} does not belong to it")
    for name in manifest.files:
        _compare(path, manifest, name)
    found = parse_step(path.name)
    if found and found[0] != manifest.step:
        raise Damaged(f"{path} is damaged: {MANIFEST} belongs to step {manifest.step}")
    return manifest


def hash_checkpoint(path: Path) -> str:
    """Return the SHA-256 (hex) of a checkpoint's manifest, which depends on every byte of the checkpoint."""
    return hashlib.sha256(_seal(asdict(read_manifest(path)))).hexdigest()


def read_tensors(path: Path, name: str) -> dict[str, "Tensor"]:
    """Return the tensors that were saved as `name`, on the CPU.

    Raises:
        Damaged: if any byte of the file has changed.
        UserError: if the checkpoint has no such tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = _read(path, f"{name}.safetensors")
    try:
        return load(content)
    # A header with a dtype that torch does not have raises KeyError.
    except (SafetensorError, ValueError, KeyError) as error:
        raise Damaged(f"{path} is damaged: {name}.safetensors is not a safetensors file ({error})") from error


def read_document(path: Path, name: str) -> object:
    """Return the JSON document that was saved as `name`.

    Raises:
        Damaged: if any byte of the file has changed.
        UserError: if the checkpoint has no such document.
    """
    return _parse(path, f"{name}.json", _read(path, f"{name}.json"))


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of the checkpoint `path`.

    Raises:
        Damaged: if the manifest is missing or has changed.
        UserError: if a newer version of ddim wrote the checkpoint.
    """
    content = _load(path, MANIFEST)
    fields = _parse(path, MANIFEST, content)
    try:
        del fields["sha256"]
        sound = _seal(fields) == content
    # JSON that can be read but not written, such as 1e999, raises ValueError or RecursionError.
    except (TypeError, KeyError, ValueError, RecursionError):
        sound = False
    if not sound or type(fields.get("schema")) is not int:
        raise Damaged(f"{path} is damaged: {MANIFEST} has changed since it was written")
    if fields["schema"] > SCHEMA:
        raise UserError(
            f"{path} was written by a newer ddim (it has schema {fields['schema']}, but this version reads "
            f"schema {SCHEMA}): upgrade ddim"
        )
    kinds = {name: type(value) for name, value in fields.items()}
    if kinds != {"schema": int, "step": int, "best": bool, "files": dict}:
        raise Damaged(f"{path} is damaged: {MANIFEST} does not have the fields of a manifest")
    for name in fields["files"]:
        if not _NAME.fullmatch(name) or name.upper() == MANIFEST.upper():
            raise Damaged(f"{path} is damaged: {MANIFEST} lists the invalid file name {name!r}")
    return Manifest(**fields)


def write_parts(folder: Path, step: int, best: bool, contents: Iterable[tuple[str, bytes]]) -> None:
    """Write the files of a checkpoint into a new folder, then its manifest.

    Args:
        folder: the new folder.
        step: the step of the checkpoint.
        best: whether it is the best so far.
        contents: pairs of a file name and the bytes of the file.
    """
    files = {}
    for name, content in contents:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        files[name] = _describe(content)
    (folder / MANIFEST).write_bytes(_seal(asdict(Manifest(SCHEMA, step, best, files))))


def render_json(value: object) -> bytes:
    """Return a value as the bytes of a JSON file.

    Raises:
        ValueError, TypeError: if the value cannot be written as JSON, or contains NaN or an infinity.
    """
    return (json.dumps(value, allow_nan=False, indent=1) + "\n").encode()


def pack_tensors(name: str, group: Mapping[str, "Tensor"]) -> bytes:
    """Return tensors of any device and memory layout as the bytes of a safetensors file.

    Args:
        name: the name of the group, for the message.
        group: the tensors, keyed by name.

    Raises:
        NotFinite: if a tensor contains NaN or an infinity.
    """
    import torch
    from safetensors.torch import save as pack

    packed = {}
    for key, tensor in group.items():
        # Tensors are copied, because the format cannot store channels_last or tensors that share memory.
        packed[key] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        if not packed[key].isfinite().all():
            raise NotFinite(f"{key} in {name} is not finite")
    return pack(packed)


def check_names(names: Iterable[str]) -> None:
    """Check the names of the parts of a checkpoint, which become file names.

    Raises:
        ValueError: if a name is invalid.
    """
    for name in names:
        if not _NAME.fullmatch(name) or name.upper() == "MANIFEST":
            raise ValueError(f"a part of a checkpoint cannot be named {name!r}")


def _describe(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _seal(fields: dict[str, Any]) -> bytes:
    """Return the bytes of a manifest: its fields, then their SHA-256.

    Every schema keeps this format, so that an older ddim can recognise an undamaged newer manifest.
    """
    return render_json(fields | {"sha256": hashlib.sha256(render_json(fields)).hexdigest()})


def _parse(path: Path, name: str, content: bytes) -> Any:  # noqa: ANN401 (JSON)
    def reject(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(content.decode(), parse_constant=reject)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged: {name} is not JSON ({error})") from error


def _load(path: Path, name: str) -> bytes:
    try:
        return _read_twice(path / name)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise Damaged(f"{path} is damaged: {name} is missing") from error
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise Damaged(f"{path} is damaged: {name} cannot be read ({error.strerror})") from error


def _read_twice(file: Path) -> bytes:
    """Return the bytes of a file; after an input/output error, read it once more.

    Such an error may be a short fault of the drive.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    time.sleep(0.1)
    return file.read_bytes()


def _compare(path: Path, manifest: Manifest, name: str) -> bytes:
    content, said = _load(path, name), manifest.files[name]
    found = _describe(content)
    if found != said:
        what = (
            "its bytes have changed"
            if isinstance(said, dict) and found["size"] == said.get("size")
            else f"its size has changed to {len(content)} bytes"
        )
        raise Damaged(f"{path} is damaged: {name}: {what}")
    return content


def _read(path: Path, name: str) -> bytes:
    manifest = read_manifest(path)
    if name not in manifest.files:
        raise UserError(f"{path} has no {name}; it has {', '.join(sorted(manifest.files))}")
    return _compare(path, manifest, name)
