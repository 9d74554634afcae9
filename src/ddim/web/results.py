"""Keep the newest results and uploads as files in a temporary folder, and what is known about each."""

import secrets
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddim.web.answers import Refused


@dataclass
class ResultStore:
    """Keeps the newest folders, at most `most`, and a description of each, keyed by an id.

    Nobody can guess an id.
    """

    most: int
    root: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="ddim-serve-")))
    kept: dict[str, Any] = field(default_factory=dict)

    def make(self, key: str = "") -> Path:
        """Create a folder with an id, by default a new one, as its name. Call `keep` or `discard` later."""
        folder = self.root / (key or secrets.token_urlsafe(12))
        folder.mkdir(parents=True)
        return folder

    def keep(self, folder: Path, content: Any = None) -> None:  # noqa: ANN401 (any description)
        """Keep a folder with its description; remove the oldest folder if there are too many."""
        self.kept[folder.name] = content
        if len(self.kept) > self.most:
            self.discard(next(iter(self.kept)))

    def discard(self, key: str) -> None:
        """Remove a folder."""
        self.kept.pop(key, None)
        shutil.rmtree(self.root / key, ignore_errors=True)

    def select(self, kind: type) -> list[Any]:
        """Return the descriptions of a type, the oldest first."""
        return [content for content in [*self.kept.values()] if isinstance(content, kind)]

    def find(self, key: str, name: str) -> Path:
        """Return the path of a file.

        Raises:
            Refused: if there is no such file, or it has been removed.
        """
        files = {path.name: path for path in (self.root / key).glob("*")} if key in self.kept else {}
        if name not in files:
            raise Refused(404, "the server no longer has this; it keeps the newest images until it ends")
        return files[name]

    def close(self) -> None:
        """Remove all folders."""
        shutil.rmtree(self.root, ignore_errors=True)
