"""List the parts of the user's cache folder, and clear them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddim.errors import UserError, suggest
from ddim.files import cache_folder

_HEX = "[0-9a-f]"
# The name of each part of the cache, a description, and patterns of the paths of its entries. Other files are
# never removed, because the user may keep some in the cache folder.
_PARTS = {
    "images": ("decoded data sets", f"images/{_HEX * 32}"),
    "stamps": ("which files the decoded data sets belong to", f"stamps/{_HEX * 64}"),
    "features": ("samples, features of samples and images", f"features/*{_HEX * 64}*"),
    "compiler": ("networks compiled by torch.compile", "compiler"),
    "downloads": (
        "data sets of torchvision",
        *("downloads/flowers-102", "downloads/oxford-iiit-pet", "downloads/cifar-10-*"),
    ),
    "hub": ("runs and data sets of the Hugging Face Hub", "hub/*--*"),
    "weights": ("downloaded weights of feature networks", f"weights/*-{_HEX * 8}.pth"),
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
    for name, (about, *patterns) in _PARTS.items():
        paths = tuple(path for pattern in patterns for path in sorted(cache_folder().glob(pattern)))
        files = (file for path in paths for file in (path, *path.rglob("*")) if not file.is_dir())
        found.append(CachePart(name, about, paths, sum(file.lstat().st_size for file in files)))
    return found


def clear_cache(parts: Sequence[str]) -> int:
    """Remove parts of the cache and return the number of freed bytes.

    All parts can be computed or downloaded again. The names of parts are in `PARTS`.

    Raises:
        UserError: if a part does not exist.
        OSError: if a part cannot be removed.
    """
    for name in parts:
        if name not in PARTS:
            known = ", ".join(PARTS)
            raise UserError(f"the parts of the cache are {known}, got {name!r}{suggest(name, PARTS)}")
    chosen = [part for part in list_cache() if part.name in parts]
    for path in (path for part in chosen for path in part.entries):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return sum(part.bytes for part in chosen)
