"""Show and clear the parts of the cache folder."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddim.errors import check_choice
from ddim.files import cache_folder

_HEX = "[0-9a-f]"

CACHE_PARTS = {
    "images": [f"images/{_HEX * 32}"],
    "stamps": [f"stamps/{_HEX * 64}"],
    "features": [f"features/*{_HEX * 64}*"],
    "compiler": ["compiler"],
    "downloads": ["downloads/flowers-102", "downloads/oxford-iiit-pet", "downloads/cifar-10-*"],
    "hub": ["hub/*--*"],
    "weights": [f"weights/*-{_HEX * 8}.pth"],
}
"""Patterns of the paths of the entries of each part of the cache.

Other files are never removed, because the user may keep some in the cache folder.
"""


@dataclass(frozen=True)
class CacheContents:
    """The cache folder, the bytes in each of its parts, and the bytes that were freed."""

    folder: Path
    parts: dict[str, int]
    freed: int

    def __str__(self) -> str:
        """Return the sizes of the cache and of its parts, or what was freed."""
        if self.freed:
            return f"{self.freed / 1e6:,.1f} MB freed in {self.folder}"
        sizes = [f"  {name:<9} {size / 1e6:>8,.1f} MB" for name, size in self.parts.items()]
        return "\n".join([f"{self.folder}: {sum(self.parts.values()) / 1e6:,.1f} MB", *sizes])


def inspect_cache(*, clear: Sequence[str] = ()) -> CacheContents:
    """Show the contents of the cache, or clear parts of it.

    The cache folder is $DDIM_CACHE, or else the user's cache folder. Everything in it can be computed or
    downloaded again. Do not clear it while other commands of ddim run. Its parts:

      images      decoded data sets
      stamps      notes which files the decoded data sets belong to
      features    samples, and features of samples and images
      compiler    compiled networks
      downloads   built-in data sets
      hub         files of the Hugging Face Hub
      weights     weights of feature networks

    Args:
        clear: parts to remove, or all.

    Commands:
        ddim cache
        ddim cache --clear images,features
    """
    names = [clear] if isinstance(clear, str) else clear
    if "all" in names:
        names = CACHE_PARTS
    for name in names:
        check_choice("a part of the cache", name, CACHE_PARTS)
    sizes, freed = dict[str, int](), 0
    for name, patterns in CACHE_PARTS.items():
        entries = [path for pattern in patterns for path in cache_folder().glob(pattern)]
        files = [file for path in entries for file in (path, *path.rglob("*")) if not file.is_dir()]
        sizes[name] = sum(file.lstat().st_size for file in files)
        if name in names:
            for path in entries:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            freed, sizes[name] = freed + sizes[name], 0
    return CacheContents(cache_folder(), sizes, freed)
