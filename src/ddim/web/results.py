"""Keep the newest results and uploads as files in a temporary folder, and what is known about each."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddim.web.answers import Refused

MOST_BYTES = 4 * 2**30
"""The largest total size of the folders, in bytes; the oldest folders are removed first."""


@dataclass
class Kept:
    """The sizes of the files of a folder, keyed by name, and its description."""

    sizes: dict[str, int]
    content: Any


@dataclass
class ResultStore:
    """Keeps the newest folders, at most `most`. Each has an id that cannot be guessed."""

    most: int
    root: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="ddim-serve-")))
    kept: dict[str, Kept] = field(default_factory=dict)

    def make(self) -> Path:
        """Create a folder, and return its path; its name is its id. Call `keep` or `discard` later."""
        folder = self.root / secrets.token_urlsafe(12)
        folder.mkdir(parents=True)
        return folder

    def keep(self, folder: Path, content: Any = None) -> None:  # noqa: ANN401 (any description)
        """Keep the current files of a folder; remove the oldest folders if there are too many."""
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
        self.kept[folder.name] = Kept(sizes, content)
        while len(self.kept) > self.most or (len(self.kept) > 1 and self._total() > MOST_BYTES):
            self.discard(next(iter(self.kept)))

    def discard(self, key: str) -> None:
        """Remove a folder."""
        self.kept.pop(key, None)
        shutil.rmtree(self.root / key, ignore_errors=True)

    def select(self, kind: type) -> list[Any]:
        """Return the descriptions of a type, the oldest first."""
        return [kept.content for kept in [*self.kept.values()] if isinstance(kept.content, kind)]

    def find(self, key: str, name: str) -> Path:
        """Return the path of a file.

        Raises:
            Refused: if there is no such file, or it has been removed.
        """
        if key not in self.kept or name not in self.kept[key].sizes:
            raise Refused(404, "this does not exist, or was removed because newer images took its place")
        return self.root / key / name

    def close(self) -> None:
        """Remove all folders."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _total(self) -> int:
        return sum(sum(kept.sizes.values()) for kept in self.kept.values())
