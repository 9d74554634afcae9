"""List the contents of the cache folder, and clear it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddim.errors import UserError, explain_error, suggest
from ddim.files import cache_folder

# Each part has a folder within the cache folder, a pattern of file names, and a description. Files with other
# names are never removed, because the user may keep other files in the cache folder.
_PARTS = {
    "images": ("", r"[0-9a-f]{32}-\d+x\d+x\d+(-u16|-f32)?", "decoded data sets"),
    "stamps": ("stamps", r"[0-9a-f]{64}\.(json|lock)", "which files the decoded data sets belong to"),
    "features": (
        "features",
        r"(samples-)?[0-9a-f]{64}(\.\w+)?",
        "samples, features of samples and images",
    ),
    "compiler": ("", "compiler", "networks compiled by torch.compile"),
    "downloads": (
        "downloads",
        r"flowers-102|oxford-iiit-pet|cifar-10-.*|\w+(\.tar\.gz|\.tgz)",
        "data sets of torchvision",
    ),
    "hub": ("hub", r"[\w.-]+--[\w.-]+", "runs and data sets of the Hugging Face Hub"),
    "weights": ("weights", r".*-[0-9a-f]{8}\.pth", "downloaded weights of feature networks"),
}
PARTS = tuple(_PARTS)
"""The names of the parts of the cache."""


@dataclass(frozen=True)
class CachePart:
    """A part of the cache: its name, a description, the paths of its entries, and their size in bytes."""

    name: str
    about: str
    entries: tuple[Path, ...]
    bytes: int


def list_cache() -> list[CachePart]:
    """Return the parts of the cache."""
    found = []
    for name, (inner, pattern, about) in _PARTS.items():
        folder = cache_folder() / inner
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
        paths = tuple(path for path in entries if re.fullmatch(pattern, path.name))
        found.append(CachePart(name, about, paths, sum(map(_measure, paths))))
    return found


def clear_cache(parts: Sequence[str]) -> int:
    """Remove parts of the cache and return the number of freed bytes.

    All parts can be computed or downloaded again. The names of parts are in `PARTS`.

    Raises:
        UserError: if a part does not exist or cannot be removed.
    """
    for name in parts:
        if name not in PARTS:
            raise UserError(
                f"the parts of the cache are {', '.join(PARTS)}, got {name!r}{suggest(name, PARTS)}"
            )
    chosen = [part for part in list_cache() if part.name in parts]
    for path in (path for part in chosen for path in part.entries):
        try:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError as error:
            raise explain_error(error, f"{path} cannot be removed") from None
    return sum(part.bytes for part in chosen)


def _measure(path: Path) -> int:
    return sum(inner.lstat().st_size for inner in (path, *path.rglob("*")) if not inner.is_dir())
