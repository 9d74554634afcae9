"""Keep the newest results and uploads as files in a temporary folder, and what is known about each."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddim.web.answers import Refused

MOST_BYTES = 4 * 2**30
"""The largest total size of the folders, in bytes; the oldest folders are removed first."""


@dataclass(frozen=True)
class Kept:
    """A folder, the names and the total size in bytes of its files, and its description."""

    folder: Path
    names: frozenset[str]
    size: int
    content: Any


class ResultStore:
    """Keeps the newest folders. Each has an id that cannot be guessed."""

    def __init__(self, most: int) -> None:
        self._root, self._most = Path(tempfile.mkdtemp(prefix="ddim-serve-")), most
        self.kept: OrderedDict[str, Kept] = OrderedDict()

    def make(self) -> tuple[str, Path]:
        """Create a folder, and return its id and path; call `keep` or `discard` later."""
        key = secrets.token_urlsafe(12)
        folder = self._root / key
        folder.mkdir(parents=True)
        return key, folder

    def keep(self, key: str, content: Any = None) -> None:  # noqa: ANN401 (any description)
        """Keep the current files of a folder; remove the oldest folders if there are too many."""
        folder = self._root / key
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
        self.kept[key] = Kept(folder, frozenset(sizes), sum(sizes.values()), content)
        while len(self.kept) > self._most or (len(self.kept) > 1 and self._total() > MOST_BYTES):
            self.discard(next(iter(self.kept)))

    def discard(self, key: str) -> None:
        """Remove a folder."""
        self.kept.pop(key, None)
        shutil.rmtree(self._root / key, ignore_errors=True)

    def find(self, key: str, name: str) -> Path:
        """Return the path of a file.

        Raises:
            Refused: if there is no such file, or it has been removed.
        """
        kept = self.kept.get(key)
        if kept is None or name not in kept.names:
            raise Refused(404, "this result does not exist, or was removed because newer ones took its place")
        return kept.folder / name

    def close(self) -> None:
        """Remove all folders."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _total(self) -> int:
        return sum(kept.size for kept in self.kept.values())
