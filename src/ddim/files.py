"""Files that outlive a power cut: names that are on the disk, files that are whole or absent."""

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

_DAY = 24 * 3600


def cache_folder(given: Path | None = None) -> Path:
    """Where what can be had again is kept: the given folder, $DDIM_CACHE, or the user's cache folder."""
    import platformdirs

    return given or Path(os.environ.get("DDIM_CACHE") or platformdirs.user_cache_path("ddim"))


def make(folder: Path) -> None:
    """Create `folder`, and what is missing above it."""
    if not folder.is_dir():
        make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def unfinished(path: Path) -> Path:
    """A new name beside `path` for what is not whole yet, which is nobody else's; `sweep` knows it."""
    # Machines that share a drive may share process ids too.
    return path.with_name(f".tmp-{uuid.uuid4().hex}-{path.name}")


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path`: whole or not at all, whatever happens."""
    with whole(path) as file:
        file.write(content)


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which is at `path` after the block: whole or not at all, whatever happens."""
    temporary = unfinished(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def create(path: Path, content: bytes) -> None:
    """Write `content` to a new file: whole, and by one process on one machine only.

    FileExistsError where another was first, however close. The drive must know hard links.
    """
    temporary = unfinished(path)
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            # A file server may have made the link, lost its answer, and refused it when asked again.
            if not os.path.samefile(temporary, path):
                raise
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def download(url: str, path: Path, kind: str, hashes: tuple[str, ...]) -> Path:
    """Fetch what lies at an address to `path`, with a bar: whole and of one of the hashes, or not at all.

    `kind` is md5 or sha256, a hash is hex, or the beginning of it. OSError or RuntimeError where it fails.
    """
    from torchvision.datasets.utils import download_url

    make(path.parent)
    sweep(path.parent)
    temporary = unfinished(path)
    try:
        download_url(url, temporary.parent, temporary.name)
        with temporary.open("r+b") as file:
            found = hashlib.file_digest(file, partial(hashlib.new, kind, usedforsecurity=False)).hexdigest()
            os.fsync(file.fileno())
        if not found.startswith(hashes):
            raise OSError(f"the {kind} of what came is {found}, not {' or '.join(hashes)}")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
    return path


def sweep(folder: Path) -> None:
    """Remove what processes that were killed left half-written in `folder` a day ago or more."""
    for left in folder.glob(".tmp-*"):
        with suppress(OSError):
            if left.stat().st_mtime > time.time() - _DAY:
                continue
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()


def digest(path: Path) -> str:
    """The SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(folder: Path) -> None:
    """Flush the names in `folder` to the disk; Windows has no such call and needs none."""
    if hasattr(os, "O_DIRECTORY"):
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
