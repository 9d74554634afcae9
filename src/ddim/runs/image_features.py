"""Features of sets of images: computed once, then kept.

What is kept is named by all that the features are a function of, never by where the images lie, and is
believed only if its bytes are those that were written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddim.data import Images
from ddim.data.batch import gather_batch
from ddim.errors import UserError
from ddim.files import atomic_file, cache_folder, hash_file, make_folder, remove_leftovers, write_atomic
from ddim.metrics.features import Extractor, release_pages, write_npy_header

BATCH = 32
"""Images whose features are computed at once."""


@dataclass(frozen=True)
class ImageSet:
    """Images, which of them (N,) are meant, and the names of their source and part.

    `mirrored`: left and right exchanged.
    """

    images: Images
    which: np.ndarray
    source: str
    part: str
    mirrored: bool = False

    def identity(self, extractor: Extractor) -> str:
        """SHA-256 (hex) of all that the features of these images are a function of."""
        which = hashlib.sha256(np.ascontiguousarray(self.which, np.int64).tobytes()).hexdigest()
        facts = [self.images.fingerprint, which, extractor.name, extractor.weights, extractor.resize]
        facts += ["mirrored"] if self.mirrored else []
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def compute_features(
    of: ImageSet, extractor: Extractor, progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """(N, dimensions) float32 features, a read-only memory map: those that were kept, or new ones.

    `progress(done, total)` is called while they are computed. UserError where the cache folder cannot be
    written.
    """
    identity = of.identity(extractor)
    found = find_features(identity)
    if found is not None and found.shape == (len(of.which), extractor.dimensions):
        return found
    path = _path(identity)
    try:
        make_folder(path.parent)
        remove_leftovers(path.parent)
        with atomic_file(path) as file:
            write_npy_header(file, (len(of.which), extractor.dimensions))
            for first in range(0, len(of.which), BATCH):
                part = of.which[first : first + BATCH]
                pixels = gather_batch(of.images, part)
                file.write(extractor(pixels.flip(3) if of.mirrored else pixels).numpy().tobytes())
                release_pages(of.images.pixels)
                if progress:
                    progress(first + len(part), len(of.which))
        # Last: features without it are not believed.
        write_atomic(_seal(path), hash_file(path).encode())
    except OSError as error:
        raise UserError(
            f"features cannot be kept in {path.parent} ({error.strerror}): "
            "set DDIM_CACHE to a folder that can be written"
        ) from None
    return np.lib.format.open_memmap(path, mode="r")


def find_features(identity: str) -> np.ndarray | None:
    """The features kept under an identity, a read-only memory map; None where there are none, or damaged."""
    path = _path(identity)
    with suppress(OSError, ValueError):
        if _seal(path).read_text("ascii") == hash_file(path):
            return np.lib.format.open_memmap(path, mode="r")
    return None


def _path(identity: str) -> Path:
    return cache_folder() / "features" / f"{identity}.npy"


def _seal(path: Path) -> Path:
    return path.with_suffix(".sha256")
