"""Files and folders that survive a crash or a power cut: whole or absent, and flushed to the disk.

Whatever is not finished lies beside its place under a name ``.tmp-...``, and one rename gives it its own.
"""

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from ddim.errors import UserError

TEMPORARY = ".tmp-"
"""How the name of an unfinished file or folder begins."""

_DAY = 24 * 3600


def cache_folder(folder: str | Path | None = None) -> Path:
    """Return the folder for what can be computed or downloaded again.

    It is `folder` where given, else $DDIM_CACHE, else the user's cache folder on this system.
    """
    import platformdirs

    return Path(folder or os.environ.get("DDIM_CACHE") or platformdirs.user_cache_path("ddim"))


def make_folder(folder: Path) -> None:
    """Create `folder` and its missing parents, and flush their names to the disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


# Writing


def write_new(path: Path, content: bytes) -> None:
    """Write `content` to a file that does not exist yet, and flush it to the disk.

    A crash may leave a part of it: use this inside a `temporary_folder`, and `write_atomic` elsewhere.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    finally:
        os.close(file)


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path`, in place of what is there: after a crash, one or the other is whole."""
    with _named_last(path, os.replace) as temporary:
        write_new(temporary, content)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes its place at `path` when the block ends without an error; as `write_atomic`."""
    with _named_last(path, os.replace) as temporary, temporary.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_once(path: Path, content: bytes) -> None:
    """Write `content` to a file that only one process can create, even among several machines.

    The drive must know hard links.

    Raises:
        FileExistsError: if the file exists, or another process was faster.
    """
    with _named_last(path, _link_once) as temporary:
        write_new(temporary, content)


def write_json(path: Path, document: object) -> None:
    """Write `document` as JSON to `path`, like `write_atomic`.

    Raises:
        ValueError: if it holds NaN or an infinity; `path` is then untouched.
        TypeError: if it holds a value that JSON cannot express; `path` is then untouched.
    """
    write_atomic(path, json.dumps(document, indent=2, allow_nan=False).encode() + b"\n")


def read_json(path: Path) -> Any:  # noqa: ANN401 (JSON)
    """Return the JSON document in a file.

    Raises:
        UserError: if the file cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def download_file(url: str, path: Path, kind: str, hashes: tuple[str, ...]) -> Path:
    """Download a file to `path`, with a progress bar, and check its hash before it gets its name.

    Args:
        url: the address.
        path: where the file goes; missing folders are created.
        kind: "md5" or "sha256".
        hashes: the hashes (hex), or their beginnings, of which the file must have one.

    Returns:
        `path`.

    Raises:
        OSError: if the download fails, the hash is another one, or `path` cannot be written.
        RuntimeError: if the server cannot be reached.
    """
    from torchvision.datasets.utils import download_url

    make_folder(path.parent)
    remove_leftovers(path.parent)
    with _named_last(path, os.replace) as temporary:
        download_url(url, temporary.parent, temporary.name)
        with temporary.open("r+b") as file:
            found = hashlib.file_digest(file, partial(hashlib.new, kind, usedforsecurity=False)).hexdigest()
            os.fsync(file.fileno())
        if not found.startswith(hashes):
            raise OSError(f"the {kind} of the downloaded file is {found}, not {' or '.join(hashes)}")
    return path


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Create an empty folder beside `path`, to be filled and published; remove it if the block leaves it.

    The missing parents of `path` are created. See `publish_folder`.
    """
    make_folder(path.parent)
    temporary = _temporary(path)
    try:
        temporary.mkdir()
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish_folder(temporary: Path, path: Path) -> None:
    """Rename a filled folder to `path`, where nothing may lie but an empty folder, and flush all names.

    Raises:
        OSError: if `path` is a file or a folder that is not empty.
    """
    for inner, _, _ in os.walk(temporary, topdown=False):
        sync_folder(Path(inner))
    os.rename(temporary, path)
    sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files and folders in `folder` that killed processes left a day ago or more."""
    for left in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError):
            if left.stat().st_mtime > time.time() - _DAY:
                continue
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to the disk. Windows has no such call and needs none."""
    if hasattr(os, "O_DIRECTORY"):
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _temporary(path: Path) -> Path:
    """A name beside `path` that no other process uses."""
    # Machines that share a drive may share process ids too.
    return path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{path.name}")


@contextmanager
def _named_last(path: Path, name: Callable[[Path, Path], None]) -> Iterator[Path]:
    """Yield a temporary name beside `path`; `name(temporary, path)` is called when the block is done."""
    temporary = _temporary(path)
    try:
        yield temporary
        name(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _link_once(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        # A file server may have made the link, lost its answer, and refused it when asked again.
        if not os.path.samefile(temporary, path):
            raise
