"""Store decoded images with hashes of their bytes, and check each part when it is first read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from ddim.errors import UserError
from ddim.files import hash_file, write_new

SEAL = "seal.json"
"""The file with the hashes; a folder without it is decoded again."""

# The size of a chunk in bytes. It is a compromise: if chunks are large, the first batches read most of the
# file, because a whole chunk is checked; if chunks are small, the list of hashes is long.
_CHUNK = 2**20


def write_seal(pixels: Path, size: int, *pages: str) -> None:
    """Write the file `SEAL` with the hashes of the chunks of `pixels`, and of the files `pages` beside it.

    A chunk of the file `pixels` is a whole number of images, each of `size` bytes.
    """
    rows = max(1, _CHUNK // size)
    chunks = []
    with pixels.open("rb") as file:
        while chunk := file.read(rows * size):
            chunks.append(hashlib.sha256(chunk).hexdigest())
    seal = {
        "rows": rows,
        "chunks": chunks,
        "pages": {page: hash_file(pixels.parent / page) for page in pages},
    }
    write_new(pixels.parent / SEAL, json.dumps(seal).encode())


def read_seal(folder: Path) -> dict[str, Any]:
    """Return the hashes in the file `SEAL` of a folder, after checking all files but the pixels against them.

    Raises:
        OSError, ValueError: if the file of hashes is missing, or one of the checked files has changed.
    """
    seal = json.loads((folder / SEAL).read_text("utf-8"))
    if any(hash_file(folder / page) != digest for page, digest in seal["pages"].items()):
        raise ValueError("a file has changed")
    return seal


class SealedPixels:
    """A read-only array of the images (N, H, W, C) in a file; its rows are checked when they are first read.

    It is indexed like a NumPy array, but new axes and ellipses are not supported. Indexing returns a NumPy
    array.

    Args:
        path: the file.
        shape: (N, H, W, C).
        seal: the result of `read_seal`.
        dtype: the type of the values.

    Raises:
        ValueError: if the number of hashes does not fit the shape.
        UserError: when damaged rows are read. The images are then decoded again when they are next opened.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int, int],
        seal: dict[str, Any],
        dtype: np.dtype = np.dtype("u1"),  # noqa: B008  (a frozen value)
    ) -> None:
        self.base, self.shape, self.dtype = np.memmap(path, dtype, "r", shape=shape), shape, dtype
        self._path, self._rows, self._digests = path, int(seal["rows"]), list(seal["chunks"])
        if len(self._digests) != -(-shape[0] // self._rows):
            raise ValueError("the number of hashes does not fit the size of the file")
        self._unread = np.ones(len(self._digests), bool)
        self._complete = False

    def __len__(self) -> int:
        """Return the number of images."""
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:  # noqa: ANN401  (whatever NumPy takes)
        """Return the images at an index, a slice, an array of indices or a mask."""
        if not self._complete:
            first = index[0] if isinstance(index, tuple) else index
            whole = isinstance(first, slice) or np.asarray(first).dtype == bool
            rows = np.arange(len(self))[first] if whole else np.asarray(first) % len(self)
            chunks = np.unique(rows // self._rows)
            for chunk in chunks[self._unread[chunks]]:
                self._check(chunk)
            self._complete = not self._unread.any()
        return self.base[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: ANN401
        """Return all images as an array of NumPy."""
        return np.array(self[:], dtype, copy=copy)

    def _check(self, chunk: int) -> None:
        part = self.base[chunk * self._rows : (chunk + 1) * self._rows]
        if hashlib.sha256(part.data).hexdigest() != self._digests[chunk]:
            # Without the file of hashes, the images are decoded again. Another process may have removed this
            # file already, or the cache may be read-only.
            advice = "repeat the command to decode them again"
            try:
                self._path.with_name(SEAL).unlink(missing_ok=True)
            except OSError:
                advice = "set DDIM_CACHE to a folder of your own"
            raise UserError(f"the decoded images in {self._path.parent} are damaged on the disk: {advice}")
        self._unread[chunk] = False
