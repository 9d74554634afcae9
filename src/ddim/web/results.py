"""Keep the newest results and uploads of clients as files in a temporary folder."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from ddim.web.answers import Refused

MOST_BYTES = 4 * 2**30
"""The largest total size of the folders in a store, in bytes; the oldest folders are removed first."""


@dataclass(frozen=True)
class Kept:
    """A folder, the names of its files, and their total size in bytes."""

    folder: Path
    names: frozenset[str]
    size: int


class ResultStore:
    """Keeps the newest folders and removes older ones. Each folder has an id that cannot be guessed."""

    def __init__(self, root: Path, most: int) -> None:
        self._root, self._most = root, most
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def make(self) -> tuple[str, Path]:
        """Create a folder, and return its id and path; call `keep` or `discard` later."""
        own = secrets.token_urlsafe(12)
        folder = self._root / own
        folder.mkdir(parents=True)
        return own, folder

    def keep(self, own: str) -> None:
        """Keep the current files of the folder with the id `own`; remove the oldest folders if needed."""
        folder = self._root / own
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
        self._kept[own] = Kept(folder, frozenset(sizes), sum(sizes.values()))
        while len(self._kept) > self._most or (len(self._kept) > 1 and self._total() > MOST_BYTES):
            self.discard(next(iter(self._kept)))

    def discard(self, own: str) -> None:
        """Remove the folder with the id `own`."""
        self._kept.pop(own, None)
        shutil.rmtree(self._root / own, ignore_errors=True)

    def find(self, own: str, name: str) -> Path:
        """Return the path of a file in the folder with the id `own`.

        Raises:
            Refused: if there is no such file, or it has been removed.
        """
        kept = self._kept.get(own)
        if kept is None or name not in kept.names:
            raise Refused(404, "this result does not exist, or was removed because newer ones took its place")
        return kept.folder / name

    def names(self, own: str) -> frozenset[str]:
        """Return the names of the files in the folder with the id `own`."""
        return self._kept[own].names

    def _total(self) -> int:
        return sum(kept.size for kept in self._kept.values())


class ResultStores:
    """The results and the uploads of a server, in one temporary folder that is removed when the
    server ends.
    """

    def __init__(self, results: int, uploads: int) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="ddim-serve-"))
        self.results = ResultStore(self.root / "results", results)
        self.uploads = ResultStore(self.root / "uploads", uploads)

    def close(self) -> None:
        """Remove the temporary folder."""
        shutil.rmtree(self.root, ignore_errors=True)
