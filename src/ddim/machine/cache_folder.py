"""Show the parts of the user's cache folder, and clear them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ddim.errors import UserError, suggest
from ddim.files import cache_folder

_HEX = "[0-9a-f]"
PARTS = {
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
"""For each part of the cache, a description, and patterns of the paths of its entries.

Other files are never removed, because the user may keep some in the cache folder.
"""


@dataclass(frozen=True)
class CachePart:
    """A part of the cache: its name, a description, the paths of its entries, and their size in bytes."""

    name: str
    about: str
    entries: tuple[Path, ...]
    bytes: int


@dataclass(frozen=True)
class CacheContents:
    """The cache folder, its parts as they are now, and the number of bytes that were freed."""

    folder: Path
    parts: tuple[CachePart, ...]
    freed: int = 0

    def __str__(self) -> str:
        """Return the size of the cache and of its parts."""
        freed = f", {_megabytes(self.freed)} freed" if self.freed else ""
        lines = [f"{self.folder}: {_megabytes(sum(part.bytes for part in self.parts))}{freed}"]
        for part in self.parts:
            size = _megabytes(part.bytes)
            lines.append(f"  {part.name:<9} {size:>10}  {len(part.entries):>5}  {part.about}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the folder, the sizes and the entries of the parts."""
        return {"bytes": sum(part.bytes for part in self.parts), **asdict(self)}


def inspect_cache(*, clear: Sequence[str] = ()) -> CacheContents:
    """Show the contents of the cache, or clear parts of it.

    The cache folder is $DDIM_CACHE, or else the user's cache folder. Everything in it can be computed or
    downloaded again. Do not clear it while other commands of ddim run.

    Args:
        clear: parts to remove: images, stamps, features, compiler, downloads, hub, weights, or all of them.

    Commands:
        ddim cache
        ddim cache --clear images,features
    """
    clear = [clear] if isinstance(clear, str) else clear
    for name in clear:
        if name not in PARTS and name != "all":
            known = ", ".join(PARTS)
            raise UserError(f"the parts of the cache are {known}, got {name!r}{suggest(name, PARTS)}")
    before = _list_parts()
    for part in before:
        if part.name in clear or "all" in clear:
            for path in part.entries:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    after = _list_parts()
    return CacheContents(cache_folder(), after, sum(p.bytes for p in before) - sum(p.bytes for p in after))


def _list_parts() -> tuple[CachePart, ...]:
    parts = []
    for name, (about, *patterns) in PARTS.items():
        paths = tuple(path for pattern in patterns for path in sorted(cache_folder().glob(pattern)))
        files = (file for path in paths for file in (path, *path.rglob("*")) if not file.is_dir())
        parts.append(CachePart(name, about, paths, sum(file.lstat().st_size for file in files)))
    return tuple(parts)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
