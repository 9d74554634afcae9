"""Show the parts of the user's cache folder, and clear them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
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
    "downloads": ("data sets of torchvision", "downloads/*-*"),
    "hub": ("runs and data sets of the Hugging Face Hub", "hub/*--*"),
    "weights": ("downloaded weights of feature networks", f"weights/*-{_HEX * 8}.pth"),
}
"""For each part of the cache, a description, and the pattern of the paths of its entries.

Other files are never removed, because the user may keep some in the cache folder.
"""


@dataclass(frozen=True)
class CacheContents:
    """The cache folder, the bytes in each part of it, and the number of bytes that were freed."""

    folder: Path
    parts: Mapping[str, int]
    freed: int = 0

    def __str__(self) -> str:
        """Return the size of the cache and of its parts."""
        total, freed = sum(self.parts.values()) / 1e6, self.freed / 1e6
        lines = [f"{self.folder}: {total:,.1f} MB" + (f", {freed:,.1f} MB freed" if freed else "")]
        for name, size in self.parts.items():
            lines.append(f"  {name:<9} {size / 1e6:>10,.1f} MB  {PARTS[name][0]}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the folder and the bytes of its parts."""
        return asdict(self)


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
    before = _measure_parts()
    for name in PARTS if "all" in clear else clear:
        for path in _list_entries(name):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    after = _measure_parts()
    return CacheContents(cache_folder(), after, sum(before.values()) - sum(after.values()))


def _list_entries(part: str) -> list[Path]:
    return sorted(cache_folder().glob(PARTS[part][1]))


def _measure_parts() -> dict[str, int]:
    sizes = {}
    for name in PARTS:
        files = (file for path in _list_entries(name) for file in (path, *path.rglob("*")))
        sizes[name] = sum(file.lstat().st_size for file in files if not file.is_dir())
    return sizes
